//! What breaks a lab on purpose, and what mends it.

use super::state::{HostSpec, State};
use super::{Lab, LabError, host, network, state};

impl Lab {
    /// Ends hosts as a power cut does; they stay dead until [`Lab::heal`].
    ///
    /// # Errors
    /// No such host, or it refuses to die.
    pub fn kill(&self, hosts: &str) -> Result<(), LabError> {
        let state = self.state()?;
        let _lock = state::lock(self.folder(), self.name())?;
        state.select(hosts)?.into_iter().try_for_each(|spec| host::die(&state, spec))
    }

    /// Cuts the hosts of `from` from those of `to`, in both directions, or only what `from` sends if `one_way`.
    ///
    /// # Errors
    /// No such host, or the rules are refused.
    pub fn partition(&self, from: &str, to: &str, one_way: bool) -> Result<(), LabError> {
        let state = self.state()?;
        let _lock = state::lock(self.folder(), self.name())?;
        for a in state.select(from)? {
            for b in state.select(to)?.into_iter().filter(|b| b.name != a.name) {
                network::cut(&state, a.address, b.address)?;
                if !one_way {
                    network::cut(&state, b.address, a.address)?;
                }
            }
        }
        Ok(())
    }

    /// Ends all cuts and boots killed hosts again.
    ///
    /// # Errors
    /// A host does not boot.
    pub fn heal(&self) -> Result<(), LabError> {
        let state = self.state()?;
        let _lock = state::lock(self.folder(), self.name())?;
        network::heal(&state)?;
        let dead: Vec<&HostSpec> = down_hosts(&state)?;
        dead.iter().try_for_each(|spec| host::start(&state, spec, self.folder()))?;
        dead.iter().try_for_each(|spec| host::wait_for_sshd(spec, self.folder()))
    }
}

fn down_hosts(state: &State) -> Result<Vec<&HostSpec>, LabError> {
    let mut down = Vec::new();
    for spec in &state.hosts {
        if host::leader(state, spec)?.is_none() {
            down.push(spec);
        }
    }
    Ok(down)
}
