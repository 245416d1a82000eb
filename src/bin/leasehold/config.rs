//! `--config`: flags from a TOML file, under the same names.
//!
//! What the file says becomes the *default* of the flag that it names, and then the command line is parsed as ever. So
//! who wins over whom is clap's rule, not one of ours: the command line, then the environment, then the default. What is
//! missing, wrong or in conflict is noticed by the same code as without a file.
//!
//! The whole file is checked, also what it says of other commands: a misspelt key, or a value that its flag doesn't take,
//! that waits for the day on which its command is needed is no use to anybody.
//!
//! A variable that is set to nothing (`LEASEHOLD_CONNECT=`) is as good as not set: that is how it is unset for one command.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, CommandFactory as _, FromArgMatches as _, error::ContextKind,
    error::ContextValue, error::ErrorKind, parser::ValueSource, value_parser,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{
    args::Cli,
    exit::{self, Failed},
};

const CONFIG: &str = "config";
/// So many letters may be wrong, missing or in each other's place for one word to be meant by another.
const MISTAKES_MAX: usize = 2;

/// The command line's definition, with `--config` where it has a meaning.
pub(crate) fn definition() -> clap::Command {
    let config = Arg::new(CONFIG)
        .long(CONFIG)
        .env("LEASEHOLD_CONFIG")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(
            "A TOML file with flags under the same names; the command line and the environment win over it",
        );
    let mut definition = Cli::command();
    definition = definition.mut_subcommands(|command| command.mut_args(without_empty_variable));
    let config = without_empty_variable(config);
    let takes: Vec<String> =
        definition.get_subcommands().filter(|command| takes_a_file(command)).map(name_of).collect();
    for name in takes {
        definition = definition.mut_subcommand(name, |command| command.arg(config.clone()));
    }
    definition
}

fn without_empty_variable(arg: Arg) -> Arg {
    let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { arg.env(None) } else { arg }
}

fn takes_a_file(command: &clap::Command) -> bool {
    command.get_name() == "agent" || flag(command, "connect").is_some()
}

fn name_of(command: &clap::Command) -> String {
    command.get_name().to_owned()
}

fn flag<'a>(command: &'a clap::Command, long: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(long))
}

/// The flags that a file may set.
fn flags(command: &clap::Command) -> impl Iterator<Item = &str> {
    command.get_arguments().filter_map(Arg::get_long).filter(|&long| long != CONFIG && long != "help")
}

/// Parses the command line, with the file that it or the environment names. clap ends the process where it speaks itself:
/// for `--help`, and for what is wrong without any file.
///
/// # Errors
/// The file can't be used; the sentence names the place.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Cli, Failed> {
    let definition = definition();
    let Some((command, path)) = named_file(&definition, &args) else {
        return Ok(understood(&definition.get_matches_from(args)));
    };
    let text = fs::read_to_string(&path).map_err(|error| {
        Failed::with(
            exit::USAGE,
            format!("can't read the file {path:?} of --config: {error}; check the path, or leave it out"),
        )
    })?;
    let file = File { path: &path, text: &text };
    let mut set = file.flags_of(&command, &definition)?;
    loop {
        let matches = match with_defaults(&definition, &command, &set).try_get_matches_from(&args) {
            Ok(matches) => matches,
            Err(error) => return Err(file.blamed(&error, &set).unwrap_or_else(|| error.exit())),
        };
        let Some(gives_way) = beaten(&definition, &command, &matches, &set) else {
            return Ok(understood(&matches));
        };
        set.remove(&gives_way);
    }
}

fn understood(matches: &ArgMatches) -> Cli {
    Cli::from_arg_matches(matches).unwrap_or_else(|error| error.exit())
}

/// Which command is asked for, and the file that it shall use, if any. Other faults are left for later.
fn named_file(definition: &clap::Command, args: &[OsString]) -> Option<(String, PathBuf)> {
    let matches = definition.clone().ignore_errors(true).try_get_matches_from(args).ok()?;
    let (command, matches) = matches.subcommand()?;
    let path = matches.try_get_one::<PathBuf>(CONFIG).ok()??;
    Some((command.to_owned(), path.clone()))
}

fn with_defaults(definition: &clap::Command, command: &str, set: &BTreeMap<String, Set>) -> clap::Command {
    definition.clone().mut_subcommand(command, |mut command| {
        for (long, value) in set {
            let id = flag(&command, long).map(|arg| arg.get_id().clone());
            if let Some(id) = id {
                let values = value.values.clone();
                command = command.mut_arg(id, |arg| arg.required(false).default_values(values));
            }
        }
        command
    })
}

/// A flag of the file that excludes one of the command line or the environment: it gives way. Of defaults clap does not
/// know that they exclude anything.
fn beaten(
    definition: &clap::Command,
    command: &str,
    matches: &ArgMatches,
    set: &BTreeMap<String, Set>,
) -> Option<String> {
    let mut definition = definition.clone();
    definition.build();
    let command = definition.find_subcommand(command)?;
    let matches = matches.subcommand_matches(command.get_name())?;
    let given = |arg: &Arg| {
        let source = matches.value_source(arg.get_id().as_str());
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let excluded = |one: &Arg| {
        let others = command.get_arguments().filter(|other| other.get_id() != one.get_id() && given(other));
        others.into_iter().any(|other| exclude(command, one, other))
    };
    set.keys().find(|long| flag(command, long).is_some_and(|arg| !given(arg) && excluded(arg))).cloned()
}

fn exclude(command: &clap::Command, one: &Arg, other: &Arg) -> bool {
    let says =
        |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|arg| arg.get_id() == b.get_id());
    says(one, other) || says(other, one)
}

/// A flag as the file sets it.
struct Set {
    values: Vec<String>,
    line: usize,
}

/// The file, for its faults.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn fault(&self, line: usize, what: impl fmt::Display) -> Failed {
        Failed::with(exit::USAGE, format!("{}, line {line}: {what}", self.path.display()))
    }

    fn line(&self, span: Range<usize>) -> usize {
        self.text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
    }

    /// What it sets of this command, once all of it is checked.
    fn flags_of(&self, asked: &str, definition: &clap::Command) -> Result<BTreeMap<String, Set>, Failed> {
        let table = DeTable::parse(self.text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line(span));
            self.fault(line, format_args!("this is not TOML: {}; quote texts and spans", error.message()))
        })?;
        let commands: Vec<&clap::Command> =
            definition.get_subcommands().filter(|command| takes_a_file(command)).collect();
        let mut of_all = BTreeMap::new();
        let mut of_asked = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let line = self.line(key.span());
            let key: &str = key.get_ref();
            if let DeValue::Table(inner) = value.get_ref() {
                let Some(command) = commands.iter().find(|command| command.get_name() == key) else {
                    let known = commands.iter().map(|command| command.get_name());
                    return Err(self.unknown(line, "command that takes a file", key, known));
                };
                let set = self.table(definition, command, inner)?;
                if key == asked {
                    of_asked = set;
                }
                continue;
            }
            let having = commands.iter().filter(|command| flags(command).any(|long| long == key));
            let having: Vec<_> = having.collect();
            if having.is_empty() {
                let known = commands.iter().flat_map(|command| flags(command));
                return Err(self.unknown(line, "flag", key, known));
            }
            for command in having {
                let set = self.taken(definition, command, key, self.value(command, key, value, line)?)?;
                if command.get_name() == asked {
                    of_all.insert(key.to_owned(), set);
                }
            }
        }
        let asked = definition.find_subcommand(asked);
        self.check_exclusions(asked, &of_asked)?;
        // What is said of the command alone stands before what is said of all.
        of_all.retain(|long, _| {
            asked.is_none_or(|command| {
                !of_asked.keys().any(|other| {
                    flag(command, long).zip(flag(command, other)).is_some_and(|(one, other)| {
                        one.get_id() == other.get_id() || exclude(command, one, other)
                    })
                })
            })
        });
        self.check_exclusions(asked, &of_all)?;
        of_all.extend(of_asked);
        // `false` says that the flag is not given, which needs no default.
        of_all.retain(|_, set| !set.values.is_empty());
        Ok(of_all)
    }

    fn table(
        &self,
        definition: &clap::Command,
        command: &clap::Command,
        table: &DeTable<'_>,
    ) -> Result<BTreeMap<String, Set>, Failed> {
        let mut set = BTreeMap::new();
        for (key, value) in table {
            let line = self.line(key.span());
            let key: &str = key.get_ref();
            if !flags(command).any(|long| long == key) {
                let what = format!("flag of `{}`", command.get_name());
                return Err(self.unknown(line, &what, key, flags(command)));
            }
            let value = self.value(command, key, value, line)?;
            set.insert(key.to_owned(), self.taken(definition, command, key, value)?);
        }
        Ok(set)
    }

    fn unknown<'k>(
        &self,
        line: usize,
        what: &str,
        key: &str,
        known: impl IntoIterator<Item = &'k str>,
    ) -> Failed {
        let mistakes = |word: &&str| strsim::damerau_levenshtein(word, key);
        let remedy = match known.into_iter().min_by_key(mistakes) {
            Some(word) if mistakes(&word) <= MISTAKES_MAX => format!("did you mean {word:?}?"),
            Some(word) => format!("the nearest is {word:?}; see --help"),
            None => "see --help".to_owned(),
        };
        self.fault(line, format_args!("there is no {what} {key:?}; {remedy}"))
    }

    fn value(
        &self,
        command: &clap::Command,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        line: usize,
    ) -> Result<Set, Failed> {
        let (takes_none, takes_many) = flag(command, key).map_or((false, false), |arg| {
            let action = arg.get_action();
            (matches!(action, ArgAction::SetTrue), matches!(action, ArgAction::Append))
        });
        let text = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.as_ref().to_owned()),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            _ => None,
        };
        let (values, wanted) = match value.get_ref() {
            DeValue::Boolean(is_given) if takes_none => {
                (Some(is_given.then(|| "true".to_owned()).into_iter().collect()), "")
            }
            _ if takes_none => (None, "true or false"),
            DeValue::Array(items) if takes_many => {
                let texts: Option<Vec<_>> = items.iter().map(|item| text(item.get_ref())).collect();
                (texts.filter(|texts| !texts.is_empty()), "a list of texts, not an empty one")
            }
            one if takes_many => (text(one).map(|text| vec![text]), "a text, or a list of texts"),
            one => (text(one).map(|text| vec![text]), "a text in quotes, or a whole number"),
        };
        let kind = value.get_ref().type_str();
        let fault = || self.fault(line, format_args!("{key} is of the kind {kind}; give it {wanted}"));
        Ok(Set { values: values.ok_or_else(fault)?, line })
    }

    /// The same, if the command's flag takes it.
    fn taken(
        &self,
        definition: &clap::Command,
        command: &clap::Command,
        key: &str,
        set: Set,
    ) -> Result<Set, Failed> {
        if set.values.is_empty() {
            return Ok(set);
        }
        let only = BTreeMap::from([(key.to_owned(), set)]);
        let bare = ["leasehold", command.get_name()];
        // What else is missing or wrong is found when this command is asked for.
        let tried = with_defaults(definition, command.get_name(), &only).try_get_matches_from(bare);
        if let Some(fault) = tried.err().and_then(|error| self.blamed(&error, &only)) {
            return Err(fault);
        }
        only.into_values().next().ok_or_else(|| self.fault(1, format_args!("{key} has no value")))
    }

    fn check_exclusions(
        &self,
        command: Option<&clap::Command>,
        set: &BTreeMap<String, Set>,
    ) -> Result<(), Failed> {
        let Some(command) = command else { return Ok(()) };
        let given: Vec<_> = set.iter().filter(|(_, set)| !set.values.is_empty()).collect();
        for (one, set) in &given {
            for (other, _) in given.iter().filter(|(other, _)| other > one) {
                let both = flag(command, one).zip(flag(command, other));
                if both.is_some_and(|(one, other)| exclude(command, one, other)) {
                    let text = format!("{one} and {other} exclude each other; keep one of them");
                    return Err(self.fault(set.line, text));
                }
            }
        }
        Ok(())
    }

    /// The sentence for a value of the file that its flag does not take; `None` if something else is wrong.
    fn blamed(&self, error: &clap::Error, set: &BTreeMap<String, Set>) -> Option<Failed> {
        if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
            return None;
        }
        let context = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let (arg, value) = (context(ContextKind::InvalidArg)?, context(ContextKind::InvalidValue)?);
        let long = arg.strip_prefix("--")?.split(' ').next()?;
        let set = set.get(long).filter(|set| set.values.iter().any(|one| one == value))?;
        let why = match (std::error::Error::source(error), error.get(ContextKind::ValidValue)) {
            (Some(source), _) => source.to_string(),
            (None, Some(ContextValue::Strings(words))) => format!("give it one of {}", words.join(", ")),
            (None, _) => "see --help".to_owned(),
        };
        Some(self.fault(set.line, format_args!("{long} can't be {value:?}: {why}")))
    }
}
