//! What may be written where: one row per keyword of plays, role uses, blocks, tasks and handlers.

use crate::source::suggest;

/// A place where keywords are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Play,
    /// An entry of `roles:` or of a role's dependencies.
    Role,
    Block,
    Task,
    Handler,
}

impl Level {
    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Returns what a person calls it, with its article.
    pub fn noun(self) -> &'static str {
        match self {
            Level::Play => "a play",
            Level::Role => "a role entry",
            Level::Block => "a block",
            Level::Task => "a task",
            Level::Handler => "a handler",
        }
    }
}

/// What a keyword's value must look like in the file; a template stands for anything but a structure of statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Bool,
    Number,
    Text,
    /// A name that is no template.
    Word,
    Dict,
    /// A text, or a list of texts.
    Texts,
    /// An expression, a bool, or a list of them.
    Conditions,
    /// A list of tasks and blocks.
    Statements,
    Any,
}

/// Whether the keyword is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    CarriedOut,
    /// A keyword of Ansible that means nothing here and harms nothing when left aside.
    Ignored,
    /// A keyword of Ansible that is refused, since leaving it aside would change what happens; what to do instead.
    Refused(&'static str),
    /// Carried out with these words alone; what to do instead of others.
    Only(&'static [&'static str], &'static str),
}

/// One keyword.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyword {
    pub name: &'static str,
    pub shape: Shape,
    pub standing: Standing,
    levels: u8,
}

const P: u8 = Level::Play.bit();
const R: u8 = Level::Role.bit();
const B: u8 = Level::Block.bit();
const T: u8 = Level::Task.bit() | Level::Handler.bit();
const H: u8 = Level::Handler.bit();
/// Plays, roles, blocks, tasks and handlers.
const BASE: u8 = P | R | B | T;
const BELOW_PLAY: u8 = R | B | T;

const fn row(name: &'static str, levels: u8, shape: Shape) -> Keyword {
    Keyword { name, shape, standing: Standing::CarriedOut, levels }
}

const fn ignored(name: &'static str, levels: u8) -> Keyword {
    Keyword { name, shape: Shape::Any, standing: Standing::Ignored, levels }
}

const fn refused(name: &'static str, levels: u8, instead: &'static str) -> Keyword {
    Keyword { name, shape: Shape::Any, standing: Standing::Refused(instead), levels }
}

const fn only(
    name: &'static str,
    levels: u8,
    words: &'static [&'static str],
    instead: &'static str,
) -> Keyword {
    Keyword { name, shape: Shape::Any, standing: Standing::Only(words, instead), levels }
}

/// Every keyword, by name within its group.
pub const KEYWORDS: &[Keyword] = &[
    // All levels.
    row("any_errors_fatal", BASE, Shape::Bool),
    row("become", BASE, Shape::Bool),
    row("become_flags", BASE, Shape::Text),
    row("become_method", BASE, Shape::Text),
    row("become_user", BASE, Shape::Text),
    row("check_mode", BASE, Shape::Bool),
    only(
        "connection",
        BASE,
        &["local", "ssh", "smart"],
        "hosts are reached by SSH; for others set `ansible_connection: local` in the inventory",
    ),
    row("diff", BASE, Shape::Bool),
    row("environment", BASE, Shape::Any),
    row("ignore_errors", BASE, Shape::Bool),
    only(
        "ignore_unreachable",
        BASE,
        &["false"],
        "take it out: a host that cannot be reached is left, and the others go on; `--limit` leaves it out from the start",
    ),
    row("module_defaults", BASE, Shape::Dict),
    row("name", BASE, Shape::Text),
    row("no_log", BASE, Shape::Bool),
    refused("port", BASE, "set `ansible_port` in the inventory"),
    refused("remote_user", BASE, "set `ansible_user` in the inventory, or log in with `--user`"),
    row("run_once", BASE, Shape::Bool),
    row("tags", BASE, Shape::Texts),
    refused("throttle", BASE, "put the tasks into a play with `serial`, or run with fewer `--forks`"),
    refused(
        "timeout",
        BASE,
        "limit the program itself, e.g. `command: timeout 60 PROGRAM`; `wait_for` and `uri` have a limit of their own",
    ),
    row("vars", BASE, Shape::Dict),
    ignored("collections", BASE),
    ignored("debugger", BASE),
    refused("become_exe", BASE, "set `ansible_become_exe` in the inventory"),
    // Below the play.
    row("delegate_facts", BELOW_PLAY, Shape::Bool),
    row("delegate_to", BELOW_PLAY, Shape::Text),
    row("notify", B | T, Shape::Texts),
    row("when", BELOW_PLAY, Shape::Conditions),
    // Plays.
    only("force_handlers", P, &["false"], "put what must run after a failure into a block with `always`"),
    row("gather_facts", P, Shape::Bool),
    row("gather_subset", P, Shape::Texts),
    row("handlers", P, Shape::Statements),
    row("hosts", P, Shape::Texts),
    row("max_fail_percentage", P, Shape::Number),
    only("order", P, &["inventory"], "write the hosts in the inventory in the order that they should have"),
    row("post_tasks", P, Shape::Statements),
    row("pre_tasks", P, Shape::Statements),
    row("roles", P, Shape::Any),
    row("serial", P, Shape::Any),
    only(
        "strategy",
        P,
        &["linear"],
        "take it out: every host finishes a change before any begins the next one",
    ),
    row("tasks", P, Shape::Statements),
    row("vars_files", P, Shape::Any),
    ignored("fact_path", P),
    ignored("gather_timeout", P),
    ignored("validate_argspec", P),
    refused("vars_prompt", P, "nothing is asked for while a run is under way; give the variables with `-e`"),
    // Role entries.
    row("role", R, Shape::Word),
    // Blocks.
    row("always", B, Shape::Statements),
    row("block", B, Shape::Statements),
    row("rescue", B, Shape::Statements),
    // Tasks and handlers.
    row("action", T, Shape::Any),
    row("args", T, Shape::Any),
    row("async", T, Shape::Number),
    row("changed_when", T, Shape::Conditions),
    row("delay", T, Shape::Number),
    row("failed_when", T, Shape::Conditions),
    row("local_action", T, Shape::Any),
    row("loop", T, Shape::Any),
    row("loop_control", T, Shape::Dict),
    row("poll", T, Shape::Number),
    row("register", T, Shape::Word),
    row("retries", T, Shape::Number),
    row("until", T, Shape::Conditions),
    // Handlers.
    row("listen", H, Shape::Texts),
];

/// Returns the keyword of that name if it may stand at `level`.
pub fn find(name: &str, level: Level) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|k| k.name == name && k.levels & level.bit() != 0)
}

/// Returns the levels at which `name` is a keyword, as people call them; empty for a word that is none.
pub fn levels_of(name: &str) -> Vec<&'static str> {
    let all = [Level::Play, Level::Role, Level::Block, Level::Task, Level::Handler];
    all.into_iter().filter(|level| find(name, *level).is_some()).map(Level::noun).collect()
}

/// Returns the keyword of `level` that is written most like `word`, if one is near.
pub fn nearest(word: &str, level: Level) -> Option<&'static str> {
    let names = KEYWORDS.iter().filter(|k| k.levels & level.bit() != 0).map(|k| k.name);
    suggest::nearest(word, names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_keyword_has_one_row() {
        for (index, keyword) in KEYWORDS.iter().enumerate() {
            assert!(
                KEYWORDS.iter().skip(index + 1).all(|other| other.name != keyword.name),
                "{}",
                keyword.name
            );
        }
    }

    #[test]
    fn a_keyword_of_few_words_names_one_that_changes_nothing() {
        for keyword in KEYWORDS {
            if let Standing::Only(words, instead) = keyword.standing {
                assert!(!words.is_empty() && !instead.is_empty(), "{}", keyword.name);
            }
        }
    }

    #[test]
    fn when_is_refused_on_a_play_and_listen_on_a_task() {
        assert!(find("when", Level::Play).is_none());
        assert!(find("listen", Level::Task).is_none());
        assert!(find("listen", Level::Handler).is_some());
    }
}
