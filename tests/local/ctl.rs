//! Commands on a live cluster print what Patroni's own tool prints for it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::agents::{Agents, SLOW, within};
use crate::patronictl;

#[test]
fn lists_are_those_of_patronictl() {
    let agents = Agents::start("");
    lists_agree(&agents);
    monitoring_reads_what_it_knows(&agents);
    a_script_learns_by_the_exit_code(&agents);
    a_file_that_the_agent_does_not_write_counts_after_a_reload(&agents);
    a_copy_under_way_is_not_begun_anew(&agents);
    a_person_edits_the_configuration(&agents);
    let collation = "SELECT datcollate FROM pg_database WHERE datname = 'template1'";
    assert_eq!(
        agents.sql("a", collation).as_deref(),
        Some("C.UTF-8"),
        "the locale of the agent's environment"
    );
}

/// Asks as Prometheus and people's scripts do, which know Patroni's words.
fn monitoring_reads_what_it_knows(agents: &Agents) {
    let raw = |name: &str, path: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", agents.rest_port(name))).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(raw("a", "/patroni").contains(r#""role": "primary""#), "{}", raw("a", "/patroni"));
    let sender = agents.get("a", "/patroni")["replication"][0].clone();
    assert_eq!((&sender["usename"], &sender["client_addr"]), (&"replicator".into(), &"127.0.0.1".into()));
    assert_eq!(sender["sync_priority"], 0);

    assert!(agents.sql("a", "CREATE TABLE seen (id int)").is_some());
    let replayed = "SELECT EXTRACT(epoch FROM pg_last_xact_replay_timestamp())";
    within(SLOW, "the last commit that was replayed is known to its time", || {
        let answer = raw("b", "/metrics");
        assert!(answer.to_lowercase().contains("content-type: text/plain\r\n"), "{answer}");
        let row = answer.lines().find(|line| line.starts_with("patroni_xlog_replayed_timestamp{"));
        row.and_then(|row| row.rsplit_once(' ')).map(|(_, time)| time.to_owned()) == agents.sql("b", replayed)
    });

    // A server that has been started again receives its segment anew: it has not lost what it replayed before.
    agents.patronictl("a", &["restart", "demo", "b", "--force"]);
    within(SLOW, "nothing lags after a restart", || {
        let cluster = agents.get("a", "/cluster");
        let member =
            cluster["members"].as_array().unwrap().iter().find(|member| member["name"] == "b").unwrap();
        member["state"] == "streaming" && member["receive_lsn"] == member["replay_lsn"]
    });
}

fn a_script_learns_by_the_exit_code(agents: &Agents) {
    let said = |arguments: &[&str]| {
        let output = agents.as_patronictl("a", arguments).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), text.concat())
    };
    let refused = [
        (&["restart", "demo", "b", "--pg-version", "abc", "--force"][..], "Invalid PostgreSQL version: abc"),
        (&["reload", "other", "--force"], "other cluster doesn't have any members"),
        (&["reinit", "demo", "a", "--force"], "No replica among provided members"),
    ];
    for (arguments, why) in refused {
        let (code, text) = said(arguments);
        assert!(code == Some(1) && text.contains(why), "{arguments:?}: {text}");
    }
    // Not asked, a person still sees whom it is about.
    let (code, text) = said(&["restart", "demo", "b", "--pending", "--force"]);
    assert!(code == Some(0) && text.contains("Receive LSN"), "{text}");
    let (status, text) = agents.post("b", "/restart", r#"{"restart_pending": true, "timeout": "5min"}"#);
    assert_eq!((status, text.as_str()), (503, "restart conditions are not satisfied"));
    assert_eq!(agents.post("b", "/reload", "now").0, 202);
}

fn a_file_that_the_agent_does_not_write_counts_after_a_reload(agents: &Agents) {
    let file = agents.data_dir("b").join("postgresql.base.conf");
    let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
    writeln!(file, "work_mem = '7MB'").unwrap();

    agents.patronictl("a", &["reload", "demo", "b", "--force"]);
    within(SLOW, "the server has read it", || agents.sql("b", "SHOW work_mem").as_deref() == Some("7MB"));
}

fn a_copy_under_way_is_not_begun_anew(agents: &Agents) {
    assert_eq!(agents.post("c", "/reinitialize", "").0, 200);
    within(SLOW, "a second one is refused", || {
        agents.post("c", "/reinitialize", "") == (503, "reinitialize already in progress".to_owned())
    });
    within(SLOW, "it is done", || agents.streaming() == 2);
}

/// Edits as a person does, with a program in the place of the editor and answers in the place of the keyboard.
fn a_person_edits_the_configuration(agents: &Agents) {
    let editor =
        |file: &str, script: &str| agents.script(file, &format!("stat -c %a \"$1\" >&2\n{script}\n"));
    let edit = |editor: &str, answers: &str| {
        let mut command = agents.as_patronictl("a", &["edit-config", "demo"]);
        let mut child = command
            .env("EDITOR", editor)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        (output.status.code(), text.concat())
    };

    // What cannot be read is shown with its place, and edited again from where it was left.
    let clumsy = editor(
        "clumsy",
        "if grep -q '^ttl: 7$' \"$1\"; then sed -i 's/^  bad.*//' \"$1\"; else sed -i 's/^ttl: .*/ttl: 7\\n  bad: 1/' \"$1\"; fi",
    );
    let (code, text) = edit(&clumsy, "y\nn\n");
    assert_eq!(code, Some(0), "{text}");
    for part in
        ["600\n", "demo-config.yaml:", "Edit it again?", "-ttl: 6\n", "+ttl: 7\n", "Apply these changes?"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("Configuration changed"), "nobody agreed: {text}");
    let (code, text) = edit(&clumsy, "y\ny\n");
    assert!(code == Some(0) && text.contains("Configuration changed"), "{text}");
    within(SLOW, "it is the configuration", || agents.get("a", "/config")["ttl"] == 7);

    let (code, text) = edit(&editor("idle", "true"), "");
    assert!(code == Some(0) && text.contains("Not changed"), "{text}");
    let (code, text) = edit(&editor("broken", "exit 3"), "");
    assert!(code == Some(1) && text.contains("Editor exited with return code 3"), "{text}");
}

/// Waits until both tools print the same about a cluster.
pub fn lists_agree(agents: &Agents) {
    let patronictl = patronictl::program();
    // Patroni's tool reads the same file as the agent.
    let config = agents.config("a").display().to_string();
    let theirs = |arguments: &[&str]| {
        let output = Command::new(&patronictl).args(["-c", &config]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    let ours = |arguments: &[&str]| {
        let output = agents.keddah(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };

    for arguments in
        [&["list"][..], &["topology"], &["list", "-f", "json"], &["list", "-f", "tsv"], &["history"]]
    {
        // Positions move between two looks; when nothing moves, both say the same.
        let mut seen = (String::new(), String::new());
        within(SLOW, "both tools print the same", || {
            seen = (ours(arguments), theirs(arguments));
            if seen.0 != seen.1 {
                eprintln!("ours:\n{}\ntheirs:\n{}", seen.0, seen.1);
            }
            seen.0 == seen.1
        });
    }
}
