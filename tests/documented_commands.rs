//! Do the commands in the documents run, and do what the documents say?
//!
//! A fenced `sh` block is either under the comment `<!-- run by tests/documented_commands.rs -->`: then the test below
//! runs it, as it stands, but for the ports. Or each of its commands stands in `.ci/run`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as loudly as tests")]

use std::{fs, path::Path};

const MARK: &str = "<!-- run by tests/documented_commands.rs -->";

struct Block {
    from: String,
    commands: Vec<String>,
    is_run_here: bool,
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// The blocks of shell commands in a document. A command's comment is not part of it.
fn blocks(document: &str) -> Vec<Block> {
    let text = read(document);
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = "";
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            Some(_) if line.starts_with("```") => blocks.extend(open.take()),
            Some(block) => {
                let command = line.split(" # ").next().unwrap().trim();
                if !command.is_empty() && !command.starts_with('#') {
                    block.commands.push(command.to_owned());
                }
            }
            None if line.starts_with("```sh")
                || line.starts_with("```bash")
                || line.starts_with("```console") =>
            {
                let from = format!("{document}:{}", number + 1);
                open = Some(Block { from, commands: Vec::new(), is_run_here: before == MARK });
            }
            None => {}
        }
        before = line;
    }
    blocks
}

#[test]
fn every_command_is_run_by_ci_or_by_a_test() {
    let ci = read(".ci/run").replace(" --locked", "");
    let mut faults = Vec::new();
    let mut seen = 0;
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        for block in blocks(document) {
            for command in &block.commands {
                seen += 1;
                // The step may go on: with a quicker form of the same command.
                let runs = |line: &str| {
                    line.starts_with("step ")
                        && line
                            .split_once(&format!(" {command}"))
                            .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with(' '))
                };
                let is_ours = command.starts_with("leasehold ") || command.starts_with("export LEASEHOLD_");
                if !(block.is_run_here && is_ours || ci.lines().any(runs)) {
                    faults.push(format!("{}: {command}", block.from));
                }
            }
        }
    }
    assert!(faults.is_empty(), "nobody runs:\n{}", faults.join("\n"));
    assert!(seen >= 10, "only {seen} commands were found");
}

/// The worked example, as a part of this test: it checks what it tells.
#[path = "../examples/embedded_database.rs"]
mod embedded_database;

#[test]
fn the_worked_example_shows_what_it_tells() {
    embedded_database::main().unwrap();
}

/// The README's three processes, started and asked as it says.
#[cfg(all(feature = "cli", unix))]
mod three_processes {
    use std::{
        io::{BufRead as _, BufReader},
        net::TcpListener,
        process::{Child, Command, Stdio},
        sync::mpsc::{self, Receiver},
        time::Duration,
    };

    use super::{blocks, fs};

    /// For anything that the documents promise to happen soon.
    const AMPLE: Duration = Duration::from_secs(60);

    /// A command that goes on in the background, with the lines that it prints.
    struct Running {
        child: Child,
        lines: Receiver<String>,
    }

    impl Running {
        fn next_line(&self, command: &str) -> String {
            self.lines
                .recv_timeout(AMPLE)
                .unwrap_or_else(|error| panic!("{command} printed nothing: {error}"))
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn token_of(line: &str) -> u64 {
        line.strip_prefix("token ")
            .and_then(|token| token.trim().parse().ok())
            .unwrap_or_else(|| panic!("{line:?}"))
    }

    #[test]
    fn the_walkthrough_does_what_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_leasehold"), bin.join("leasehold")).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let free: Vec<TcpListener> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<String> = free.iter().map(|l| l.local_addr().unwrap().port().to_string()).collect();
        drop(free);
        let shell = |command: &str, connect: &str| {
            let mut shell = Command::new("sh");
            shell.args(["-c", command]).current_dir(folder.path()).env("PATH", &path).stdin(Stdio::null());
            shell.env("LEASEHOLD_CONNECT", connect);
            shell
        };
        let (mut agents, mut holders) = (Vec::new(), Vec::new());
        let (mut connect, mut tokens) = (String::new(), Vec::new());
        let commands = blocks("README.md").into_iter().filter(|block| block.is_run_here);
        let commands: Vec<String> = commands.flat_map(|block| block.commands).collect();
        assert!(commands.len() >= 8, "{commands:?}");
        for written in commands {
            let ported = ["7101", "7102", "7103"].iter().zip(&ports);
            let command = ported.fold(written.clone(), |command, (old, new)| command.replace(old, new));
            if let Some(value) = command.strip_prefix("export LEASEHOLD_CONNECT=") {
                connect = value.to_owned();
                // What follows asks the agents, so all must be ready.
                for agent in &agents {
                    let agent: &Running = agent;
                    let line = agent.next_line("an agent");
                    assert!(line.starts_with("ready"), "{line:?}");
                }
            } else if let Some(command) = command.strip_suffix('&') {
                let command = command.trim();
                // `exec`, so that killing the child kills the program and not its shell.
                let mut child =
                    shell(&format!("exec {command}"), &connect).stdout(Stdio::piped()).spawn().unwrap();
                let output = BufReader::new(child.stdout.take().unwrap());
                let (tell, lines) = mpsc::channel();
                std::thread::spawn(move || {
                    output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
                });
                let running = Running { child, lines };
                if command.contains(" agent ") {
                    agents.push(running);
                } else {
                    tokens.push(token_of(&running.next_line(command)));
                    holders.push(running);
                }
            } else {
                let output = shell(&command, &connect).output().unwrap();
                let (text, errors) =
                    (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success(), "{command}: {}\n{text}{errors}", output.status);
                if command.contains(" run ") {
                    tokens.push(token_of(text.lines().next().unwrap_or_default()));
                } else if command.contains(" certs ") {
                    // Each tells what it has made; the last one all of it.
                    let told = command.contains(" issue ") || command.contains(" show ");
                    assert!(text.contains("ca.crt") || told && text.contains("c.crt"), "{text}");
                } else if command.ends_with(" status") {
                    for port in &ports {
                        assert!(text.contains(port), "no agent at {port} in:\n{text}");
                    }
                } else {
                    // `holder` and `leases`, while the first `run` holds it.
                    assert!(text.contains(&tokens[0].to_string()), "no token {} in:\n{text}", tokens[0]);
                }
            }
        }
        assert!(tokens.len() == 2 && tokens[1] > tokens[0], "{tokens:?}");
        let mut first = holders.remove(0);
        assert!(first.child.wait().unwrap().success());
    }
}
