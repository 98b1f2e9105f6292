//! `keddah schema`: what may be written, as JSON Schema for editors and programs.

use anyhow::bail;

use crate::cli::exit::Exit;
use crate::input::desired;
use crate::modules;
use crate::source::suggest;

/// Print the JSON Schema of cluster.yml, or of a module's parameters
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  keddah schema > cluster.schema.json\n  keddah schema file")]
pub struct Args {
    /// The module whose parameters are described; cluster.yml without one
    #[arg(value_name = "MODULE")]
    module: Option<String>,
}

/// Runs `keddah schema`.
///
/// # Errors
/// There is no such module.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let Some(name) = &args.module else {
        println!("{:#}", desired::schema());
        return Ok(Exit::Ok);
    };
    let Some(module) = modules::find(name) else {
        match suggest::did_you_mean(name, modules::MODULES.iter().map(|m| m.name())) {
            Some(hint) => bail!("there is no module `{name}`; {hint}"),
            None => bail!("there is no module `{name}`"),
        }
    };
    println!("{}", serde_json::to_string_pretty(&module.schema())?);
    Ok(Exit::Ok)
}
