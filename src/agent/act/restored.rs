//! The first start of a cluster that the user's program restored: whose passwords nobody knows, and whose recovery ends
//! by itself.

use crate::agent::instance::Instance;
use crate::agent::observe::configuration::{self, Kept};
use crate::postgres::conf::{self, Parameters};
use crate::postgres::{hba, standby};
use crate::sys::files::FileError;

/// Who may connect until the passwords are ours: this host alone.
const THIS_HOST: [&str; 4] = [
    "local all all trust",
    "host all all samehost trust",
    "local replication all trust",
    "host replication all samehost trust",
];

/// Prepares the first start: this host may connect without a password, and recovery goes where the method says.
///
/// # Errors
/// A folder may not be written.
pub fn prepare(instance: &Instance) -> Result<(), FileError> {
    let data_dir = instance.data_dir();
    let method = instance.config.bootstrap.method.as_ref();
    let recovery = method.and_then(|method| method.recovery_conf.as_deref());
    let keeps = method.is_some_and(|method| method.keep_existing_recovery_conf);
    let standby_mode = |(name, value): &&(String, String)| name == "standby_mode" && value == "on";
    let parameters: Parameters =
        recovery.unwrap_or_default().iter().filter(|(name, _)| name != "standby_mode").cloned().collect();
    configuration::write_main(instance, &Kept { recovery: parameters, ..Kept::default() })?;
    // The originals are kept first: they come back when the passwords are set.
    conf::keep_copies(&instance.place)?;
    hba::write(&instance.place, &THIS_HOST.map(str::to_owned))?;
    match recovery {
        Some(recovery) if recovery.iter().find(standby_mode).is_some() => standby::signal(data_dir),
        Some(_) => standby::signal_recovery(data_dir),
        None if keeps => Ok(()),
        None => standby::unsignal(data_dir),
    }
}

/// Ends the first life: the configuration's own files come back. A reload makes it count.
///
/// # Errors
/// A folder may not be written.
pub fn settle(instance: &Instance) -> Result<(), FileError> {
    if instance.hba().is_none() {
        conf::restore_copy(&instance.place, "pg_hba.conf")?;
    }
    let kept = Kept { recovery: configuration::recovery(instance, None), ..Kept::default() };
    configuration::write(instance, &kept).map(drop)
}
