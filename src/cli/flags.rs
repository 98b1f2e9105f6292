//! Flags that several commands share, spelled as Ansible spells them.

use std::path::PathBuf;

use clap::ValueEnum;

/// Which files describe the deployment.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Input {
    /// An inventory file, or a folder of them; may be repeated, later ones win
    #[arg(
        short = 'i',
        long = "inventory",
        value_name = "PATH",
        env = "KEDDAH_INVENTORY",
        value_delimiter = ':',
        required = true
    )]
    pub inventory: Vec<PathBuf>,

    /// Variables that beat all others: `name=value`, JSON or YAML text, or `@FILE`; may be repeated
    #[arg(short = 'e', long = "extra-vars", value_name = "VARS")]
    pub extra_vars: Vec<String>,

    /// A folder in which roles are looked for, after `roles/` beside the playbook and beside its folder
    #[arg(long = "roles-path", value_name = "DIR", env = "KEDDAH_ROLES_PATH", value_delimiter = ':')]
    pub roles_path: Vec<PathBuf>,
}

/// Which part of the deployment a run touches.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Select {
    /// Only the hosts of this pattern
    #[arg(short = 'l', long, value_name = "PATTERN")]
    pub limit: Option<String>,

    /// Only tasks with one of these tags
    #[arg(short = 't', long, value_name = "TAGS", value_delimiter = ',')]
    pub tags: Vec<String>,

    /// No task with one of these tags
    #[arg(long = "skip-tags", value_name = "TAGS", value_delimiter = ',')]
    pub skip_tags: Vec<String>,
}

/// How hosts are reached and how many at a time.
#[derive(Debug, Clone, clap::Args)]
pub struct Connect {
    /// Log in as this user where the inventory names none
    #[arg(short = 'u', long = "user", value_name = "USER")]
    pub user: Option<String>,

    /// Log in with this key where the inventory names none
    #[arg(long = "private-key", value_name = "FILE")]
    pub private_key: Option<PathBuf>,

    /// Options added to those of every ssh connection
    #[arg(long = "ssh-common-args", value_name = "ARGS", allow_hyphen_values = true)]
    pub ssh_common_args: Option<String>,

    /// Become another user (root) where the playbook does not say
    #[arg(short = 'b', long = "become")]
    pub become_: bool,

    /// The file that holds the password for sudo
    #[arg(long = "become-password-file", value_name = "FILE")]
    pub become_password_file: Option<PathBuf>,

    /// Most hosts worked on at the same time
    #[arg(short = 'f', long, value_name = "N", default_value_t = 50)]
    pub forks: usize,
}

/// How a command tells what it found.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Output {
    /// For people, or for programs
    #[arg(long = "output", value_name = "FORM", value_enum, default_value_t)]
    pub form: Form,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    #[default]
    Human,
    Json,
}
