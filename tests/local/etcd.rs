//! The client of etcd and endpoints that nobody answers at.

use std::time::Duration;

use keddah::etcd::watch::{Change, watch};
use keddah::etcd::{Client, Config, TlsFiles};
use keddah::sys::clock;
use keddah::sys::secret::Secret;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};

const SLOW: Duration = Duration::from_secs(60);

/// An address that takes no connection and refuses none, as behind a firewall that drops: its queue is full.
struct Hole {
    _listener: std::os::fd::OwnedFd,
    _filling: std::net::TcpStream,
    port: u16,
}

impl Hole {
    fn new() -> Hole {
        let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&listener);
        bind(fd, &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let port = getsockname::<SockaddrIn>(fd).unwrap().port();
        let filling = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        Hole { _listener: listener, _filling: filling, port }
    }
}

/// Two calls at once wait for the same endpoints, each in its own order, while connections fail under both: neither
/// may keep the other from its end.
#[test]
fn calls_to_silent_endpoints_end_within_their_limits() {
    let holes: Vec<Hole> = (0..3).map(|_| Hole::new()).collect();
    let client = Client::new(Config {
        endpoints: holes.iter().map(|hole| format!("127.0.0.1:{}", hole.port)).collect(),
        protocol: "http".to_owned(),
        user: None,
        password: Secret::default(),
        tls: TlsFiles::default(),
        limit: Duration::from_secs(2),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let calls = (0..6u64).map(|number| {
            let client = client.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(130 * number)).await;
                for _ in 0..3 {
                    let began = clock::now();
                    if number % 2 == 0 {
                        client.get_prefix("/").await.unwrap_err();
                    } else {
                        client.keep_alive(1, Duration::from_secs(3)).await.unwrap_err();
                    }
                    let took = clock::now().since(began);
                    assert!(took < Duration::from_secs(15), "call {number} took {took:?}");
                }
            })
        });
        let all = futures_util::future::join_all(calls);
        let ended = tokio::time::timeout(Duration::from_secs(60), all).await;
        for call in ended.expect("no call waits for ever") {
            call.unwrap();
        }
    });
}

/// A way to a port, which falls silent when it is told to: its connections stay, and nothing goes through them.
struct Wire {
    port: u16,
    silence: std::sync::mpsc::SyncSender<()>,
}

impl Wire {
    fn to(target: u16) -> Wire {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (silence, told) = std::sync::mpsc::sync_channel::<()>(0);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let carry = async {
                    while let Ok((mut near, _)) = listener.accept().await {
                        let mut far = tokio::net::TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                        tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
                    }
                };
                let until_told = async {
                    while told.try_recv().is_err() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::select! { () = carry => {}, () = until_told => {} }
                // Blocks this thread, which carries everything; a test that has ended lets it go.
                while told.recv().is_ok() {}
            });
        });
        Wire { port, silence }
    }

    fn fall_silent(&self) {
        self.silence.send(()).unwrap();
        // Taken by the thread once it carries nothing more.
        self.silence.send(()).unwrap();
    }
}

/// A watch would hear of its silence much later by itself, and the agent sees nothing meanwhile.
#[test]
fn a_watch_leaves_a_silent_endpoint_with_the_first_call_that_is_answered_elsewhere() {
    let etcd = Encrypted::start();
    let wire = Wire::to(etcd.port);
    let client = etcd.client_by(&[wire.port, etcd.port], welcome());
    let other = etcd.client(welcome());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        written(&other, "/a", "1").await;
        client.get("/a").await.unwrap();
        let mut changes = watch(&client, "/");
        assert_eq!(changes.recv().await, Some(vec![Change::Gap]));

        wire.fall_silent();
        let began = clock::now();
        assert_eq!(client.get("/a").await.unwrap().unwrap().value, "1");
        assert_eq!(changes.recv().await, Some(vec![Change::Gap]), "it is interrupted");
        assert_eq!(changes.recv().await, Some(vec![Change::Gap]), "it begins again");
        other.put("/a", "2", None).await.unwrap();
        let told = changes.recv().await.expect("the watch goes on");
        assert!(matches!(told.as_slice(), [Change::Put(kv)] if kv.value == "2"), "{told:?}");
        let took = clock::now().since(began);
        assert!(took < Duration::from_secs(20), "it took {took:?}: that was the probe of the connection");
    });
}

/// An etcd that asks for certificates; ends with the test.
struct Encrypted {
    _folder: tempfile::TempDir,
    process: std::process::Child,
    port: u16,
}

impl Encrypted {
    fn start() -> Encrypted {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, peer_port) = (free(), free());
        let folder = tempfile::tempdir().unwrap();
        let (client, peer) = (format!("https://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let process = std::process::Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.path())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--client-cert-auth"])
            .args(["--cert-file", &fixture("etcd.pem"), "--key-file", &fixture("etcd.key")])
            .args(["--trusted-ca-file", &fixture("ca.pem")])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("etcd is installed by `make setup`");
        Encrypted { _folder: folder, process, port }
    }

    fn client(&self, tls: TlsFiles) -> Client {
        self.client_by(&[self.port], tls)
    }

    fn client_by(&self, ports: &[u16], tls: TlsFiles) -> Client {
        Client::new(Config {
            endpoints: ports.iter().map(|port| format!("localhost:{port}")).collect(),
            protocol: "https".to_owned(),
            user: None,
            password: Secret::default(),
            tls,
            limit: Duration::from_secs(2),
        })
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn fixture(name: &str) -> String {
    format!("{}/tests/local/fixtures/etcd-tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What a client shows and asks for that is let in.
fn welcome() -> TlsFiles {
    let file = |name: &str| Some(fixture(name).into());
    TlsFiles { anchors: file("ca.pem"), certificate: file("client.pem"), key: file("client.key") }
}

/// Writes as soon as etcd takes it.
async fn written(client: &Client, key: &str, value: &str) {
    let began = clock::now();
    while client.put(key, value, None).await.is_err() {
        assert!(clock::now().since(began) < SLOW, "etcd does not come up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn an_etcd_that_asks_for_certificates_is_reached_with_one_and_by_its_authority_only() {
    let etcd = Encrypted::start();
    let right = welcome();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = etcd.client(right.clone());
        written(&client, "/a", "1").await;
        assert_eq!(client.get("/a").await.unwrap().unwrap().value, "1");

        let nobody = etcd.client(TlsFiles { certificate: None, key: None, ..right.clone() });
        nobody.get("/a").await.unwrap_err();
        let stranger = etcd.client(TlsFiles { anchors: Some(fixture("client.pem").into()), ..right });
        stranger.get("/a").await.unwrap_err();
    });
}
