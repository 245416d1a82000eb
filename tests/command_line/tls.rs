//! `certs` and `--tls-…`: certificates that work after two commands, and what is said where they don't.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    harness::{Ended, Process, free_addresses, leasehold, until},
    solo::objects,
};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn ended(args: &[&str]) -> Ended {
    Process::start(&mut leasehold(args)).ended()
}

#[track_caller]
fn done(args: &[&str]) -> String {
    let ended = ended(args);
    assert_eq!(ended.code, 0, "{args:?}: {ended:?}");
    ended.out
}

#[track_caller]
fn refused(args: &[&str], code: i32, says: &[&str]) {
    let ended = ended(args);
    assert_eq!(ended.code, code, "{args:?}: {ended:?}");
    for part in says {
        assert!(ended.err.contains(part), "{args:?}: {part:?} is missing in {}", ended.err);
    }
}

/// The flags with which this name is known.
fn flags(dir: &Path, name: &str) -> Vec<String> {
    let path = |file: String| dir.join(file).to_str().unwrap().to_owned();
    let [ca, cert, key] =
        [path("ca.crt".to_owned()), path(format!("{name}.crt")), path(format!("{name}.key"))];
    ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key].map(str::to_owned).to_vec()
}

/// Three agents with certificates, and those of others.
struct Secure {
    addresses: [String; 3],
    agents: Vec<Process>,
    dir: TempDir,
}

impl Secure {
    fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().to_str().unwrap();
        done(&["certs", "init", "--dir", at]);
        done(&["certs", "issue", "a", "b", "c", "--dir", at]);
        done(&["certs", "issue", "worker", "other", "--dir", at, "--role", "client"]);
        done(&["certs", "issue", "monitor", "--dir", at, "--role", "reader"]);
        let addresses = free_addresses::<3>();
        let founders = addresses.join(",");
        let agents = NAMES.iter().zip(&addresses).map(|(name, address)| {
            let args = ["agent", "--name", name, "--listen", address, "--founder", &founders, "--ttl", "2s"];
            Process::start(leasehold(&args).args(flags(dir.path(), name)).args(more))
        });
        let agents: Vec<Process> = agents.collect();
        for agent in &agents {
            until("an agent", || agent.out().starts_with("ready ").then_some(()));
        }
        Self { addresses, agents, dir }
    }

    /// Asked by this name.
    fn ask(&self, name: &str, args: &[&str]) -> Ended {
        let (mut flags, connect) = (flags(self.dir.path(), name), self.addresses.join(","));
        // Before the command of `run`.
        let at = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
        flags.extend(["--connect".to_owned(), connect]);
        let mut command = leasehold(&args[..at]);
        Process::start(command.args(flags).args(&args[at..])).ended()
    }
}

#[test]
fn two_commands_make_a_cluster_that_talks_to_nobody_else() {
    let secure = Secure::start(&["--allow-client", "worker"]);
    let ran = secure.ask("worker", &["run", "orders", "--", "sh", "-c", "echo token $LEASEHOLD_TOKEN"]);
    assert!(ran.code == 0 && ran.out.starts_with("token "), "{ran:?}");
    // Whoever reads, reads; and no more.
    let status = secure.ask("monitor", &["status", "--json"]);
    assert_eq!((status.code, objects(&status.out).len()), (0, 3), "{status:?}");
    assert!(objects(&status.out).iter().all(|one| one["certificate_expires"].is_string()), "{status:?}");
    let ran = secure.ask("monitor", &["run", "orders", "--", "true"]);
    assert!(ran.code == 1 && ran.err.contains("the reader monitor may not ask this"), "{ran:?}");
    let revoked = secure.ask("monitor", &["revoke", "orders", "--reason", "x"]);
    assert!(revoked.code == 1, "{revoked:?}");
    // A client changes no membership, a member does.
    let left = secure.ask("worker", &["leave", "c"]);
    assert!(left.code == 1 && left.err.contains("takes a member's certificate"), "{left:?}");
    // Who isn't on the list.
    let other = secure.ask("other", &["status"]);
    assert!(other.code == 1 && other.err.contains("not among the names that are allowed"), "{other:?}");
    // A name of one's own choice.
    let posing = secure.ask("worker", &["run", "orders", "--as", "a", "--", "true"]);
    assert!(posing.code == 2 && posing.err.contains("that of the client worker"), "{posing:?}");
    let [address, ..] = &secure.addresses;
    refused(
        &["status", "--connect", address],
        1,
        &["this agent speaks TLS, the caller does not", "--tls-ca"],
    );
    // The same names, by another authority.
    let foreign = tempfile::tempdir().unwrap();
    let at = foreign.path().to_str().unwrap();
    done(&["certs", "init", "--dir", at]);
    done(&["certs", "issue", "worker", "--dir", at, "--role", "client"]);
    let mut args = vec!["status".to_owned(), "--connect".to_owned(), address.clone()];
    args.extend(flags(foreign.path(), "worker"));
    refused(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1, &["not signed by an authority"]);
    let left = secure.ask("a", &["leave", "c"]);
    assert_eq!(left.code, 0, "{left:?}");
    drop(secure.agents);
}

#[test]
fn the_flags_may_stand_in_the_environment_and_in_a_file() {
    let secure = Secure::start(&[]);
    let paths = flags(secure.dir.path(), "monitor");
    let connect = secure.addresses.join(",");
    let mut command = leasehold(&["holder", "x"]);
    command.env("LEASEHOLD_CONNECT", &connect);
    for (at, what) in ["CA", "CERT", "KEY"].iter().enumerate() {
        command.env(format!("LEASEHOLD_TLS_{what}"), &paths[2 * at + 1]);
    }
    let got = Process::start(&mut command).ended();
    assert_eq!((got.code, &*got.out), (0, "\"x\" is free\n"), "{got:?}");
    let file = secure.dir.path().join("leasehold.toml");
    let text = format!(
        "connect = {connect:?}\ntls-ca = {:?}\ntls-cert = {:?}\ntls-key = {:?}\n",
        paths[1], paths[3], paths[5]
    );
    fs::write(&file, text).unwrap();
    assert_eq!(done(&["holder", "x", "--config", file.to_str().unwrap()]), "\"x\" is free\n");
    refused(
        &["status", "--connect", &connect, "--tls-ca", &paths[1]],
        2,
        &["go together", "--tls-cert and --tls-key"],
    );
}

#[test]
fn nothing_is_overwritten_and_keys_are_their_owners() {
    let dir = tempfile::tempdir().unwrap();
    let certs = dir.path().join("certs");
    let at = certs.to_str().unwrap();
    refused(&["certs", "issue", "a", "--dir", at], 1, &["ca.crt", "certs init"]);
    done(&["certs", "init", "--dir", at]);
    let ca = fs::read(certs.join("ca.key")).unwrap();
    refused(&["certs", "init", "--dir", at], 1, &["ca.crt is there already"]);
    done(&["certs", "issue", "a", "größer/№ 5", "--dir", at, "--days", "20"]);
    let first = fs::read(certs.join("a.key")).unwrap();
    // All or none.
    refused(&["certs", "issue", "b", "a", "--dir", at], 1, &["a.crt is there already", "--replace"]);
    assert!(!certs.join("b.crt").exists());
    refused(&["certs", "issue", "ca", "--dir", at, "--replace"], 2, &["choose another name"]);
    refused(&["certs", "issue", "", "--dir", at], 2, &["is empty"]);
    refused(&["certs", "issue", "x", "--dir", at, "--role", "observer"], 2, &["reader"]);
    refused(&["certs", "issue", "x", "--dir", at, "--days", "0"], 2, &["--days"]);
    done(&["certs", "issue", "a", "--dir", at, "--replace", "--role", "client"]);
    assert!(fs::read(certs.join("a.key")).unwrap() != first && fs::read(certs.join("ca.key")).unwrap() == ca);
    for item in fs::read_dir(&certs).unwrap() {
        let item = item.unwrap();
        let name = item.file_name().into_string().unwrap();
        let mode = item.metadata().unwrap().permissions().mode() & 0o777;
        if name.ends_with(".key") {
            assert_eq!(mode, 0o600, "{name}");
        }
        assert!(name.ends_with(".key") || name.ends_with(".crt"), "{name} was left behind");
    }
    let shown: Vec<Value> = objects(&done(&["certs", "show", at, "--json"]));
    let of = |role: &str| shown.iter().find(|one| one["role"] == role).unwrap();
    assert_eq!(shown.len(), 3);
    assert_eq!((&of("client")["name"], &of("client")["days_left"]), (&"a".into(), &364.into()));
    assert_eq!((&of("member")["name"], &of("member")["days_left"]), (&"größer/№ 5".into(), &19.into()));
    assert_eq!((&of("authority")["name"], &of("authority")["days_left"]), (&Value::Null, &3649.into()));
    let table = done(&["certs", "show", certs.join("a.crt").to_str().unwrap()]);
    assert!(
        table.starts_with("FILE") && table.contains(of("client")["fingerprint"].as_str().unwrap()),
        "{table}"
    );
    refused(&["certs", "show", certs.join("a.key").to_str().unwrap()], 1, &["a.key", "no certificate"]);
    refused(&["certs", "show", "/no/such"], 1, &["/no/such"]);
}

#[test]
fn without_certificates_an_agent_stays_on_its_machine() {
    let [own] = free_addresses();
    let agent = |more: &[&str]| {
        [&["agent", "--name", "a", "--founder", &own, "--advertise", &own], more]
            .concat()
            .iter()
            .map(|arg| (*arg).to_owned())
            .collect::<Vec<_>>()
    };
    let open = agent(&["--listen", "0.0.0.0:0"]);
    let open: Vec<&str> = open.iter().map(String::as_str).collect();
    refused(&open, 2, &["0.0.0.0:0 can be reached from elsewhere", "--tls-ca", "--danger-plaintext"]);
    refused(&["status", "--connect", "10.255.255.1:7101"], 2, &["10.255.255.1:7101", "--danger-plaintext"]);
    let allowing = agent(&["--listen", &own, "--allow-client", "x"]);
    let allowing: Vec<&str> = allowing.iter().map(String::as_str).collect();
    refused(&allowing, 2, &["anybody can take any name"]);
    let port = own.rsplit_once(':').unwrap().1;
    let everywhere = format!("0.0.0.0:{port}");
    let danger = Process::start(&mut leasehold(&agent(&["--listen", &everywhere, "--danger-plaintext"])));
    until("the agent", || danger.out().starts_with("ready ").then_some(()));
}
