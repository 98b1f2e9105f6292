//! The doors to the operating system: each effect has one, and clippy bolts the others.

pub mod alarm;
pub mod changes;
pub mod children;
pub mod clock;
pub mod descriptor;
pub mod files;
pub mod http;
pub mod lane;
pub mod names;
pub mod packages;
pub mod process;
pub mod progress;
pub mod secret;
pub mod service_manager;
pub mod successor;
pub mod systemd;
pub mod terminal;
pub mod tls;
pub mod users;
pub mod volume;

/// Writes an error with all of its causes: the only way in which one is shown or logged.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their source in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
