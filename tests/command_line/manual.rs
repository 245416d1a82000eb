//! Help, man pages and completions; and every example that they show, run.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use rustix::process::Signal;

use crate::{
    harness::{Process, free_addresses, leasehold, until},
    solo::{Solo, objects},
};

fn text(args: &[&str]) -> String {
    let ended = Process::start(&mut leasehold(args)).ended();
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}: {ended:?}");
    ended.out
}

/// The commands that `--help` lists, but for `help` itself.
fn commands() -> Vec<String> {
    let help = text(&["--help"]);
    let listed = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    // What belongs to the line above begins further to the right.
    let lines =
        listed.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let names = lines.filter_map(|line| line.split_whitespace().next()).filter(|&name| name != "help");
    names.map(str::to_owned).collect()
}

/// What stands behind "Example:", at the very end.
fn example(help: &str) -> String {
    let behind =
        help.trim_end().rsplit_once("Example:\n").unwrap_or_else(|| panic!("no example in {help}")).1;
    assert_eq!(behind.lines().count(), 1, "{behind}");
    behind.trim().to_owned()
}

#[test]
fn every_command_has_help_a_page_and_is_completed() {
    let commands = commands();
    assert!(commands.len() >= 11, "{commands:?}");
    let all = text(&["man"]);
    let mut scripts = BTreeMap::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        scripts.insert(shell, text(&["completions", shell]));
    }
    for command in &commands {
        let help = text(&[command, "--help"]);
        let page = text(&["man", command]);
        assert!(page.starts_with(".ie") || page.contains(".TH"), "{page}");
        assert!(all.contains(command.as_str()) && page.contains(&format!("leasehold\\-{command}")), "{page}");
        assert!(page.contains("Example:"), "{page}");
        for (shell, script) in &scripts {
            assert!(script.contains(command.as_str()), "{shell} does not complete {command}");
        }
        if command == "agent" || help.contains("--connect") {
            assert!(help.contains("--config"), "{help}");
        }
    }
    for text in scripts.values().chain([&all]) {
        assert!(!text.contains("__guard"), "it is nobody's business");
    }
    let wrong = Process::start(&mut leasehold(&["man", "nonsense"])).ended();
    assert!(
        wrong.code == 2 && wrong.err.contains("\"nonsense\"") && wrong.err.contains("transfer"),
        "{wrong:?}"
    );
    let wrong = Process::start(&mut leasehold(&["completions", "nonsense"])).ended();
    assert!(wrong.code == 2 && wrong.err.contains("bash"), "{wrong:?}");
}

/// A shell finds nothing to object to in what it is given.
#[test]
fn bash_understands_its_completions() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions");
    fs::write(&file, text(&["completions", "bash"])).unwrap();
    let ask = "source \"$0\"; COMP_WORDS=(leasehold tra); COMP_CWORD=1; _leasehold leasehold tra leasehold; echo $COMPREPLY";
    let Ok(output) = Command::new("bash").args(["-c", ask]).arg(&file).output() else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "transfer", "{output:?}");
}

#[test]
fn help_says_what_scripts_have_to_know() {
    for args in [&["--help"][..], &["run", "--help"], &["agent", "--help"]] {
        let help = text(args);
        assert!(help.contains("Exit codes"), "{help}");
        assert!(args[0] == "agent" || help.contains("75") && help.contains("76"), "{help}");
        assert!(!help.contains("__guard"), "{help}");
    }
    // Every field that is printed is documented, see the tests of what is printed for the other direction.
    let fields = [
        (
            "watch",
            "time index event name agent token ttl_ms metadata how by reason heir delay_ms held complete lagged",
        ),
        (
            "holder",
            "name held held_by queue closed agent node token since ttl_ms mode permits revoked metadata position",
        ),
        ("leases", "name held agent node token since ttl_ms mode permits holders waiters revoked metadata"),
        (
            "run",
            "event name queued position waiters acquired agent token ttl_ms lost reason released not_acquired failed detail",
        ),
        ("revoke", "name revoked next"),
        ("certs show", "file role authority member client reader name expires days_left fingerprint"),
        ("members", "agent node address role may_vote heard_ms_ago log_index behind"),
        (
            "status",
            "address reachable agent node cluster version role term leader applied durable stopped ttl_ms certificate_expires detail",
        ),
    ];
    for (command, fields) in fields {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = text(&words);
        for field in fields.split(' ') {
            let is_word = help.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == field);
            assert!(is_word, "`leasehold {command} --help` does not tell of {field}");
        }
    }
}

/// Runs each example as it stands, but for the port.
#[test]
fn every_example_works() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_leasehold"), bin.join("leasehold")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let solo = Solo::start("2s");
    let [free] = free_addresses();
    for name in commands() {
        let example = example(&text(&[&name, "--help"]));
        assert!(
            example.starts_with("leasehold ") && (example.contains(&name) || name == "demo"),
            "{example}"
        );
        let address = if name == "agent" { &free } else { &solo.address };
        let guest = matches!(&*name, "promote" | "remove" | "leave").then(|| guest_of(&solo, &name));
        let mut shell = Command::new("sh");
        let command = format!("exec {}", example.replace("127.0.0.1:7101", address));
        shell
            .args(["-c", &command])
            .current_dir(folder.path())
            .env("PATH", &path)
            .env_remove("LEASEHOLD_CONNECT");
        // What an example speaks of is there.
        let holder = matches!(&*name, "revoke" | "transfer").then(|| solo.hold("orders", "holder", &[]));
        let standby = (name == "transfer").then(|| solo.queue("orders", "standby", &[]));
        let process = Process::start(&mut shell);
        if matches!(&*name, "agent" | "watch") {
            let says = if name == "agent" { "ready " } else { "\"event\":\"granted\"" };
            until(&name, || {
                if name == "watch" {
                    assert_eq!(solo.ended(&["run", "orders/eu", "--", "true"]).code, 0);
                }
                process.out().contains(says).then_some(())
            });
            process.signal(Signal::TERM);
        }
        let ended = process.ended();
        assert_eq!(ended.code, 0, "{example}: {ended:?}");
        does_what_it_says(&name, &ended.out, folder.path());
        if let Some(guest) = guest {
            if name == "promote" {
                assert_eq!(solo.ended(&["leave", "agent-4"]).code, 0);
            }
            assert_eq!(guest.ended().code, if name == "remove" { 128 + 9 } else { 0 });
        }
        if let Some(standby) = standby {
            standby.signal(Signal::TERM);
            standby.ended();
        }
        if let Some(holder) = holder {
            assert_eq!(holder.ended().code, 76);
        }
    }
}

/// Another member, as the command wants it: in reach or not.
fn guest_of(solo: &Solo, command: &str) -> Process {
    let [address] = free_addresses();
    let args = ["agent", "--name", "agent-4", "--listen", &address, "--join", &solo.address, "--ttl", "2s"];
    let guest = Process::start(&mut leasehold(&args));
    until("it to serve", || guest.out().starts_with("ready ").then_some(()));
    let listed = || {
        let out = solo.ended(&["members", "--json"]).out;
        objects(&out).into_iter().find(|member| member["agent"] == "agent-4")
    };
    until("it to be listed and to have caught up", || listed().filter(|member| member["behind"] == 0));
    if command == "remove" {
        guest.signal(Signal::KILL);
        let is_out_of_reach = |ms: u64| ms > 2_000;
        until("it to be out of reach", || {
            listed().filter(|member| member["heard_ms_ago"].as_u64().is_some_and(is_out_of_reach))
        });
    }
    guest
}

fn does_what_it_says(name: &str, out: &str, folder: &Path) {
    let written = |file: &str| fs::read_to_string(folder.join(file)).unwrap();
    match name {
        "status" => assert!(out.contains("solo"), "{out}"),
        "holder" => assert!(out.contains("\"orders\" is free"), "{out}"),
        "leases" => assert!(out.contains("no lease is held"), "{out}"),
        "run" => assert!(out.starts_with("token "), "{out}"),
        "revoke" => assert!(out.contains("revoked: orders, held by holder"), "{out}"),
        "transfer" => assert!(out.contains("granted: orders, held by standby"), "{out}"),
        "certs" => assert!(folder.join("certs/ca.key").exists(), "{out}"),
        "members" => assert!(out.contains("leader") && out.contains("solo"), "{out}"),
        "promote" => assert!(out.starts_with("promoted: agent-4"), "{out}"),
        "remove" => assert!(out.starts_with("removed: agent-4"), "{out}"),
        "leave" => assert!(out.starts_with("left: agent-4"), "{out}"),
        "danger" => assert!(out.contains("generation 0") && out.contains("agent a,"), "{out}"),
        "completions" => assert!(written("leasehold.bash").contains("transfer")),
        "man" => assert!(written("leasehold-run.1").contains("grace")),
        _ => {}
    }
}
