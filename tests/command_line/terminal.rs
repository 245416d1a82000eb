//! `run` at a terminal, under a shell with job control: the command may read, Ctrl-Z and Ctrl-C mean what they ever do,
//! and what an interactive shell has started ends with the lease all the same.

#![cfg(target_os = "linux")]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::tcgetpgrp,
};

use crate::{
    harness::{lives, until},
    solo::Solo,
};

/// A terminal with an interactive shell. Both are gone when dropped.
struct Terminal {
    keys: File,
    screen: Arc<Mutex<String>>,
    /// Up to where the screen was looked at.
    seen: usize,
    shell: Child,
}

impl Terminal {
    /// `None`, said loudly, where there is no such shell.
    fn open(solo: &Solo) -> Option<Self> {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = ptsname(&keys, Vec::new()).unwrap().into_string().unwrap();
        let terminal = OpenOptions::new().read(true).write(true).open(name).unwrap();
        let stream = || Stdio::from(terminal.try_clone().unwrap());
        let program = solo.command::<&str>(&[]);
        let folder = std::path::Path::new(program.get_program()).parent().unwrap();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("setsid");
        shell.args(["--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]);
        shell.env("PATH", path).env("LEASEHOLD_CONNECT", &solo.address).env("PS1", "").env("TERM", "xterm");
        shell.env_remove("LEASEHOLD_CONFIG").env_remove("NO_COLOR");
        let Ok(shell) = shell.stdin(stream()).stdout(stream()).stderr(stream()).spawn() else {
            let _ = io::stderr().write_all(
                b"\n*** SKIPPED: `run` at a terminal was NOT tested: it needs setsid and bash ***\n",
            );
            return None;
        };
        let keys = File::from(keys);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (keys.try_clone().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends with an error when nobody has the terminal open any more.
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Some(Self { keys, screen, seen: 0, shell })
    }

    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for this on the screen, behind what was waited for before; what stands between.
    #[track_caller]
    fn shows(&mut self, text: &str) -> String {
        let (between, seen) = until(text, || {
            let screen = self.screen.lock().unwrap();
            let at = screen[self.seen..].find(text)?;
            Some((screen[self.seen..self.seen + at].to_owned(), self.seen + at + text.len()))
        });
        self.seen = seen;
        between
    }

    /// Waits until a job has the terminal: a shell says which one it lets go on before it gives it the terminal, and a
    /// Ctrl-C between the two is the shell's.
    #[track_caller]
    fn belongs_to_a_job(&self) {
        let shell = i32::try_from(self.shell.id()).unwrap();
        until("a job to have the terminal", || {
            (tcgetpgrp(&self.keys).unwrap().as_raw_nonzero().get() != shell).then_some(())
        });
    }

    #[track_caller]
    fn number_behind(&mut self, text: &str) -> i32 {
        self.shows(text);
        let number = self.shows("\r\n");
        number.trim().parse().unwrap_or_else(|_| panic!("{number:?}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = writeln!(io::stderr(), "the screen: {}", self.screen.lock().unwrap());
        }
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

#[test]
fn the_command_reads_what_is_typed() {
    let solo = Solo::start("20s");
    let Some(mut terminal) = Terminal::open(&solo) else { return };
    // What is typed is on the screen too, so what is waited for is never all of it.
    terminal.types("leasehold run x -- sh -c 'echo re\"\"ady; read line; echo \"got <$line>\"'\n");
    terminal.shows("ready");
    terminal.types("a word\n");
    terminal.shows("got <a word>");

    // Ctrl-Z stops the whole job, and `fg` lets it go on with the terminal.
    let fg = "fg; echo co\"\"de=$?\n";
    terminal.types("leasehold run x -- cat\n");
    terminal.types("one\n");
    terminal.shows("one\r\none\r\n");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    terminal.shows("\r\n");
    terminal.types(fg);
    terminal.shows("leasehold run x -- cat\r\n");
    terminal.types("two\n");
    terminal.shows("two\r\ntwo\r\n");
    terminal.types("\x03");
    assert_eq!(terminal.number_behind("code="), 130);

    // The same while it does not want the terminal.
    terminal.types("leasehold run x -- sh -c 'echo re\"\"ady; sleep 600'\n");
    terminal.shows("ready");
    terminal.types("\x1a");
    terminal.shows("Stopped");
    terminal.shows("\r\n");
    terminal.types(fg);
    terminal.shows("leasehold run x -- sh");
    terminal.belongs_to_a_job();
    terminal.types("\x03");
    assert_eq!(terminal.number_behind("code="), 130);

    // In the background it waits for the terminal, as any job.
    terminal.types("leasehold run x -- cat &\n");
    until("the job to stop", || {
        terminal.types("jobs\n");
        terminal.screen.lock().unwrap()[terminal.seen..].contains("Stopped").then_some(())
    });
    terminal.types("echo al\"\"l\n");
    terminal.shows("all\r\n");
    terminal.types(fg);
    terminal.shows("leasehold run x -- cat\r\n");
    terminal.types("three\n");
    terminal.shows("three\r\nthree\r\n");
    // The end of the input, and the terminal is the shell's again.
    terminal.types("\x04");
    assert_eq!(terminal.number_behind("code="), 0);
    terminal.types("read word; echo \"re\"\"ad <$word>\"\n");
    terminal.types("home\n");
    terminal.shows("read <home>");

    // So it is behind a command in a script, which has no shell above it that would see to that.
    terminal.types("sh -c 'leasehold run x -- sh -c \"read first\"; read then; echo \"th\"\"en <$then>\"'\n");
    terminal.types("1\n");
    terminal.types("2\n");
    terminal.shows("then <2>");
}

#[test]
fn the_jobs_of_an_interactive_shell_end_with_the_lease() {
    let solo = Solo::start("2s");
    let Some(mut terminal) = Terminal::open(&solo) else { return };
    terminal.types("leasehold run x -- bash --norc --noprofile --noediting -i\n");
    terminal.types("echo in\"\"ner=$$; set -m; sleep 600 & echo jo\"\"b=$!\n");
    let inner = terminal.number_behind("inner=");
    let job = terminal.number_behind("job=");
    // In groups of their own, both of them.
    assert!(lives(inner) && lives(job));
    let guard = parent(inner);
    let run = parent(guard);
    kill_process(Pid::from_raw(run).unwrap(), Signal::KILL).unwrap();
    until("all to end", || [inner, job, guard].iter().all(|&pid| !lives(pid)).then_some(()));
    terminal.types("read word; echo \"re\"\"ad <$word>\"\n");
    terminal.types("home\n");
    terminal.shows("read <home>");
}

#[test]
fn a_place_in_the_queue_is_shown_and_colours_are() {
    let solo = Solo::start("20s");
    let _holder = solo.hold("x", "holder", &[]);
    let first = solo.queue("x", "first", &[]);
    let Some(mut terminal) = Terminal::open(&solo) else { return };
    terminal.types("leasehold run x -- true; echo co\"\"de=$?\n");
    terminal.shows("waiting for \"x\", held by holder since ");
    terminal.shows(": place 2 of 2");
    first.signal(Signal::TERM);
    terminal.shows(": place 1 of 1");
    terminal.types("\x03");
    assert_eq!(terminal.number_behind("code="), 130);
    terminal.types("leasehold leases\n");
    terminal.shows("\x1b[1mNAME");
    terminal.types("NO_COLOR=1 leasehold leases; echo do\"\"ne\n");
    assert!(!terminal.shows("done").contains("\x1b[1m"));
}

fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").unwrap().1;
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}
