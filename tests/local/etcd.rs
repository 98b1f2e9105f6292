//! The client of etcd and endpoints that nobody answers at.

use std::time::Duration;

use keddah::etcd::{Client, Config};
use keddah::sys::clock;
use keddah::sys::secret::Secret;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};

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
        tls: keddah::etcd::TlsFiles::default(),
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
