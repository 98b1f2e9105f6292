//! A way to a server that can be cut without either end being told.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub struct Relay {
    pub port: u16,
    cut: Arc<AtomicBool>,
}

impl Relay {
    /// Listens on a port of its own and passes on what comes, both ways. Ends with the test's process.
    pub fn to(server: String) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { port: listener.local_addr().unwrap().port(), cut: Arc::default() };
        let cut = relay.cut.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                open(&cut);
                let Ok(there) = TcpStream::connect(&server) else { continue };
                let (back, forth) = (there.try_clone().unwrap(), client.try_clone().unwrap());
                let (one, other) = (cut.clone(), cut.clone());
                std::thread::spawn(move || pump(client, there, &one));
                std::thread::spawn(move || pump(back, forth, &other));
            }
        });
        relay
    }

    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// What was held back arrives, late.
    pub fn heal(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

/// Waits until the way is open.
fn open(cut: &AtomicBool) {
    while cut.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        open(cut);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(std::net::Shutdown::Both);
}
