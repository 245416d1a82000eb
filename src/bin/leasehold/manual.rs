//! `completions` and `man`: what shells and people read about this program.

use clap_complete::generate;
use clap_mangen::Man;

use crate::{
    args::{CompletionsArgs, ManArgs},
    config,
    exit::{self, Failed},
    output,
};

/// What a shell needs.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failed> {
    let mut script = Vec::new();
    generate(args.shell, &mut config::definition(), "leasehold", &mut script);
    output::bytes(&script)
}

/// A page: the program's, or a command's.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failed> {
    let mut definition = config::definition();
    definition.build();
    let page = match &args.command {
        None => definition,
        Some(name) => {
            let known =
                definition.get_subcommands().map(clap::Command::get_name).collect::<Vec<_>>().join(", ");
            let no_such =
                || Failed::with(exit::USAGE, format!("there is no command {name:?}; it is one of {known}"));
            let command = definition.find_subcommand(name).ok_or_else(no_such)?;
            let title = format!("leasehold-{name}");
            command.clone().name(title).version(env!("CARGO_PKG_VERSION"))
        }
    };
    let mut text = Vec::new();
    Man::new(page)
        .manual("leasehold")
        .render(&mut text)
        .map_err(|error| Failed::new(format!("the page can't be written: {error}")))?;
    output::bytes(&text)
}
