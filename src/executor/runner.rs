//! What the evaluation of a segment needs of the process around it.

use std::time::Duration;

use crate::executor::wire::{Answer, FromHost, Identity, Question};
use crate::expr::{Dict, Value};
use crate::modules::{Fault, ModuleCall, ModuleReply};

/// What a segment needs of the process around it. The server implements it on the host, tests with a table.
pub trait Runner {
    /// Runs a module as `identity`.
    ///
    /// # Errors
    /// The module's fault, or that the identity cannot be taken.
    fn run(&self, identity: &Identity, call: ModuleCall) -> ModuleReply;

    /// Gathers facts as `identity`; `args` are those of `setup`.
    ///
    /// # Errors
    /// The identity cannot be taken, or an argument is wrong.
    fn facts(&self, identity: &Identity, args: &Value) -> Result<Dict, Fault>;

    /// Asks the controller and waits for its answer.
    ///
    /// # Errors
    /// What the controller says, or that it is gone.
    fn ask(&self, question: Question) -> Result<Answer, String>;

    /// Tells the controller something.
    fn tell(&self, message: FromHost);

    /// Says whether no further change may be started.
    fn is_cancelled(&self) -> bool;

    /// Waits, or less when cancelled.
    fn pause(&self, time: Duration);
}
