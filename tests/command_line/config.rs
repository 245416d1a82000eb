//! `--config`: who wins over whom, and what is said of a file that is wrong.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use crate::{
    harness::{Process, free_addresses, leasehold, until},
    solo::Solo,
};

struct File(TempDir);

impl File {
    fn new(text: &str) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        fs::write(file.path(), text).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("leasehold.toml")
    }

    fn str(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let (line, environment, file) = (Solo::start("2s"), Solo::start("2s"), Solo::start("2s"));
    for (solo, holder) in [(&line, "line"), (&environment, "environment"), (&file, "file")] {
        let command =
            ["run", "x", "--as", holder, "--", "sh", "-c", "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat)"];
        // Its `run` is killed, so the lease stays for a while.
        assert_eq!(solo.ended(&command).code, 128 + 9);
    }
    let config = File::new(&format!("connect = {:?}", file.address));
    let asked = |args: &[&str], variable: Option<&Solo>| {
        let mut command = leasehold(&[&["holder", "x", "--json"], args].concat());
        if let Some(solo) = variable {
            command.env("LEASEHOLD_CONNECT", &solo.address);
        }
        let ended = Process::start(&mut command).ended();
        assert_eq!(ended.code, 0, "{ended:?}");
        ["line", "environment", "file"].into_iter().find(|holder| ended.out.contains(holder)).unwrap()
    };
    let by_file = ["--config", &config.str()];
    assert_eq!(asked(&by_file, None), "file");
    assert_eq!(asked(&by_file, Some(&environment)), "environment");
    let by_line = [&by_file[..], &["--connect", &line.address]].concat();
    assert_eq!(asked(&by_line, Some(&environment)), "line");
    assert_eq!(asked(&["--connect", &line.address], Some(&environment)), "line");
}

#[test]
fn a_file_sets_what_flags_set() {
    let solo = Solo::start("30s");
    let Solo { address, .. } = &solo;
    // In a list or in one text, at the top or under the command; numbers, texts, and what is there or not.
    let config = File::new(&format!(
        "connect = [{address:?}, {address:?}]\njson = true\nas = \"of all\"\n\n[run]\nas = \"of run\"\npermits = 3\n\
         ttl = \"7s\"\nmetadata = \"m\"\nno-wait = true\n\n[watch]\nsince = 0\n\n[agent]\nname = \"unused\"\n"
    ));
    let ended = |args: &[&str]| {
        let mut command = leasehold(args);
        Process::start(command.env("LEASEHOLD_CONFIG", config.path())).ended()
    };
    let program = env!("CARGO_BIN_EXE_leasehold");
    let got = ended(&["run", "x", "--", program, "holder", "x"]);
    assert_eq!(got.code, 0, "{got:?}");
    let holder: serde_json::Value = serde_json::from_str(got.out.trim()).unwrap();
    assert_eq!((&holder["agent"], &holder["metadata"]), (&"of run".into(), &"m".into()), "{holder}");
    assert_eq!((&holder["ttl_ms"], &holder["permits"]), (&7000.into(), &3.into()), "{holder}");
    assert!(got.err.contains("\"event\":\"acquired\""), "{}", got.err);

    // What excludes each other: the command line's stays, whichever it is.
    let _writer = solo.hold("y", "writer", &[]);
    let got = ended(&["run", "y", "--", "true"]);
    assert!(got.code == 75 && got.err.contains("--no-wait"), "{got:?}");
    let got = ended(&["run", "y", "--wait", "200ms", "--", "true"]);
    assert!(got.code == 75 && got.err.contains("within 200ms"), "{got:?}");
    let got = ended(&["run", "x", "--shared", "--", program, "holder", "x"]);
    assert!(got.out.contains("\"mode\":\"shared\""), "{got:?}");
}

#[test]
fn an_agent_is_described_by_a_file() {
    let [address] = free_addresses();
    let config = File::new(&format!(
        "[agent]\nname = \"of the file\"\nlisten = {address:?}\nfounder = [{address:?}]\nttl = \"3s\"\nprofile = \"fast-lan\"\n\
         quota = [\"leases=1\", \"requests=100\"]\n"
    ));
    let agent =
        Process::start(&mut leasehold(&["agent", "--config", &config.str(), "--name", "of-the-line"]));
    let ready = until("the agent", || Some(agent.out()).filter(|out| out.ends_with('\n')));
    assert!(ready.contains("agent=of-the-line ") && ready.contains(&address), "{ready}");
    let program = env!("CARGO_BIN_EXE_leasehold");
    let two =
        ["run", "x", "--connect", &address, "--", program, "run", "y", "--connect", &address, "--", "true"];
    let ended = Process::start(&mut leasehold(&two)).ended();
    assert!(ended.code != 0 && ended.err.contains("the quota `leases`"), "{ended:?}");
}

#[test]
fn what_is_wrong_in_a_file_is_named() {
    let refused = |text: &str, args: &[&str], says: &[&str]| {
        let file = File::new(text);
        let ended = Process::start(leasehold(args).args(["--config", &file.str()])).ended();
        assert_eq!((ended.code, ended.out.as_str()), (2, ""), "{text:?}: {ended:?}");
        for part in says {
            assert!(ended.err.contains(part), "{text:?}: {part:?} is missing in {}", ended.err);
        }
    };
    let status: &[&str] = &["status"];
    refused(
        "conect = \"a:1\"",
        status,
        &["leasehold.toml, line 1", "no flag \"conect\"", "did you mean \"connect\"?"],
    );
    refused("\n\nxyzzy = 1", status, &["line 3", "no flag \"xyzzy\"", "the nearest is"]);
    // Also what another command would find: it is the same file.
    refused("[run]\ntll = \"1s\"", status, &["line 2", "no flag of `run` \"tll\"", "did you mean \"ttl\"?"]);
    refused("[rnu]\nttl = \"1s\"", status, &["line 1", "no command that takes a file \"rnu\"", "\"run\""]);
    refused("[demo]", status, &["no command that takes a file \"demo\""]);
    refused("[status]\nttl = \"1s\"", status, &["no flag of `status` \"ttl\""]);
    refused("config = \"other\"", status, &["no flag \"config\""]);
    refused("connect = a:1", status, &["line 1", "not TOML", "quote"]);
    refused("json = \"yes\"", status, &["json is of the kind string", "true or false"]);
    refused("connect = true", status, &["connect is of the kind boolean", "list of texts"]);
    refused("connect = []", status, &["not an empty one"]);
    refused("[run]\nttl = 1.5", status, &["ttl is of the kind float", "in quotes"]);
    refused("[run]\nttl = [\"1s\"]", status, &["ttl is of the kind array"]);
    refused(
        "[run]\nshared = true\npermits = 2",
        &["run", "x"],
        &["permits and shared exclude each other", "keep one"],
    );
    let agent: &[&str] = &["agent", "--name", "a", "--listen", "h:1", "--founder", "h:1"];
    refused("[agent]\nttl = \"10\"", agent, &["line 2", "ttl can't be \"10\"", "has no unit", "10s"]);
    refused("[agent]\nprofile = \"lan\"", agent, &["line 2", "profile can't be \"lan\"", "fast-lan"]);
    refused("[watch]\nsince = -1", &["watch", "--connect", "h:1"], &["since can't be \"-1\""]);
    // Also what another command's flag doesn't take.
    refused("[run]\nttl = \"10\"", status, &["line 2", "ttl can't be \"10\"", "has no unit"]);
    refused("json = true\n[agent]\nprofile = \"lan\"", status, &["line 3", "profile can't be \"lan\""]);
    refused("[watch]\nsince = -1", status, &["since can't be \"-1\""]);
    refused("ttl = \"soon\"", status, &["line 1", "ttl can't be \"soon\""]);
    // As without a file.
    refused("json = true", status, &["--connect"]);
    refused("", &["agent", "--name", "a"], &["--listen"]);
    refused("", &["agent", "--name", "a", "--listen", "a:1"], &["neither founders nor members", "--join"]);

    let missing = Process::start(&mut leasehold(&["status", "--config", "/no/such/file"])).ended();
    assert_eq!(missing.code, 2, "{missing:?}");
    assert!(
        missing.err.contains("/no/such/file") && missing.err.contains("check the path"),
        "{}",
        missing.err
    );
    let folder = Process::start(&mut leasehold(&["status", "--config", "/"])).ended();
    assert!(folder.code == 2 && folder.err.contains("can't read"), "{folder:?}");
    for args in [&["demo", "--config", "x"][..], &["man", "--config", "x"]] {
        assert_eq!(Process::start(&mut leasehold(args)).ended().code, 2);
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let solo = Solo::start("2s");
    let config = File::new(&format!("connect = {:?}", solo.address));
    let asked = |args: &[&str], connect: &str, file: &str| {
        let mut command = leasehold(args);
        Process::start(command.env("LEASEHOLD_CONNECT", connect).env("LEASEHOLD_CONFIG", file)).ended()
    };
    for ended in [
        asked(&["holder", "x"], "", &config.str()),
        asked(&["holder", "x"], &solo.address, ""),
        asked(&["holder", "x", "--connect", &solo.address], "", ""),
    ] {
        assert_eq!((ended.code, ended.out.as_str()), (0, "\"x\" is free\n"), "{ended:?}");
    }
    let nothing = asked(&["holder", "x"], "", "");
    assert!(nothing.code == 2 && nothing.err.contains("--connect"), "{nothing:?}");
}
