//! From shared flags to a loaded deployment: what `validate`, `plan`, `apply` and their like begin with.

use std::path::PathBuf;

use crate::cli::flags;
use crate::etcd::versions;
use crate::expr::Value;
use crate::input::playbook::Catalog;
use crate::input::{Deployment, Request, load};
use crate::modules;
use crate::source::Diagnostics;

/// The modules of this binary, as far as reading a playbook needs to know them.
#[derive(Debug, Clone, Copy)]
pub struct Modules;

impl Catalog for Modules {
    fn knows(&self, module: &str) -> bool {
        modules::find(module).is_some()
    }

    fn names(&self) -> Vec<&str> {
        modules::MODULES.iter().map(|m| m.name()).collect()
    }

    fn check(&self, module: &str, params: &Value) -> Diagnostics {
        modules::find(module).map(|m| m.check(params)).unwrap_or_default()
    }

    fn etcd_faults(&self, version: &str) -> Vec<String> {
        let Some(version) = versions::parse(version) else { return Vec::new() };
        versions::known_faults(version).map(|fault| fault.what.to_owned()).collect()
    }
}

/// Loads what the flags name, with everything that is wrong with it.
pub fn read(flags: &flags::Input, playbooks: &[PathBuf]) -> (Deployment, Diagnostics) {
    let request = Request {
        inventories: flags.inventory.clone(),
        playbooks: playbooks.to_vec(),
        extra_vars: flags.extra_vars.clone(),
        roles_path: flags.roles_path.clone(),
    };
    load(&request, &Modules)
}
