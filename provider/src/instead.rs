//! What people type because another version, or a document of one, says so; and what to type here.
//!
//! Only command lines that this version does not understand come here. Each gets one line and exit code 2. What can be
//! done under its older name (`plasmd generate-key`, `--pubkey`) is an alias at its command instead, not a row here.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::exit::Exit;

/// A word that is not understood after certain others.
struct Row {
    /// The words before it: a name, and a subcommand or two.
    after: &'static str,
    /// The subcommand or flag, exactly.
    word: &'static str,
    /// What to do instead.
    answer: &'static str,
}

const fn row(after: &'static str, word: &'static str, answer: &'static str) -> Row {
    Row {
        after,
        word,
        answer,
    }
}

const ALWAYS_VERIFIES: &str = "everything that is fetched is verified, always; name the publisher's key with: phase-fetch URL -k FILE.pub";
const NO_JOBS: &str = "this program runs no jobs; it serves boot images: plasmd serve";
const SIGN: &str = "sign with: plasmd manifest create --key FILE";
const ROWS: &[Row] = &[
    row(
        "plasmd",
        "init",
        "nothing has to be set up; start a provider with: plasmd serve --artifacts DIR",
    ),
    row(
        "plasmd",
        "start",
        "start a provider, which is a member of the DHT as well, with: plasmd serve",
    ),
    row("plasmd", "run", NO_JOBS),
    row("plasmd", "execute-job", NO_JOBS),
    row("plasmd", "--config", "use: plasmd serve --config FILE"),
    row("plasmd", "-C", "use: plasmd serve --config FILE"),
    row(
        "plasmd serve",
        "--signing-keys",
        "use --key FILE; for several signatures make the manifest with: plasmd manifest create --key A --key B",
    ),
    row(
        "plasmd serve",
        "--external-ip",
        "the addresses of this machine are announced; others with: plasmd serve --dht-external IP",
    ),
    row(
        "plasmd serve",
        "--listen",
        "use: plasmd serve --bind ADDR --port N",
    ),
    row(
        "plasmd serve",
        "--rate-limit-per-ip",
        "connections are limited, not requests: plasmd serve --connections-per-address N",
    ),
    row(
        "plasmd serve",
        "--rate-limit-global",
        "connections are limited, not requests: plasmd serve --connections-max N",
    ),
    row(
        "plasmd serve",
        "--peer",
        "use: plasmd serve --bootstrap ADDR",
    ),
    row("plasmd manifest create", "--sign", SIGN),
    row("plasmd manifest generate", "--sign", SIGN),
    row("phase-fetch", "--no-verify", ALWAYS_VERIFIES),
    row("phase-fetch", "--verify", ALWAYS_VERIFIES),
    row("plasmd fetch", "--no-verify", ALWAYS_VERIFIES),
    row("plasmd fetch", "--verify", ALWAYS_VERIFIES),
];

/// The line for a command line that clap refuses with `error`, when there is something better to say.
pub(crate) fn answer(name: &str, args: &[OsString], error: &clap::Error) -> Option<String> {
    if !matches!(
        error.kind(),
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand
    ) {
        return None;
    }
    let context = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand];
    let word = context.into_iter().find_map(|kind| error.get(kind))?;
    let ContextValue::String(word) = word else {
        return None;
    };
    let row = ROWS
        .iter()
        .find(|row| row.word == word && stands_after(row.after, name, args))?;
    Some(format!("{}: {}", row.word, row.answer))
}

/// Whether the command line begins with these words.
fn stands_after(after: &str, name: &str, args: &[OsString]) -> bool {
    let mut words = after.split(' ');
    words.next() == Some(name)
        && words
            .zip(args.iter().skip(1))
            .all(|(word, arg)| arg == word)
        && args.len() >= after.split(' ').count()
}

/// Prints the answer and ends the process as a wrong command line does.
pub(crate) fn exit(answer: &str) -> ! {
    eprintln!("error: {answer}");
    std::process::exit(Exit::Usage as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command_of;

    /// What is answered to a typed line.
    fn check(line: &str) -> Option<String> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let name = line.split(' ').next().unwrap_or_default();
        let error = command_of(name).try_get_matches_from(&args).err()?;
        answer(name, &args, &error)
    }

    #[test]
    fn every_row_answers_to_what_it_is_about_and_nothing_that_works_is_in_the_table() {
        for row in ROWS {
            let line = format!("{} {}", row.after, row.word);
            let said = check(&line).unwrap_or_else(|| panic!("{line}: no answer"));
            assert!(!said.contains('\n'), "{said}");
            let with_value = format!("{line}=x");
            if row.word.starts_with("--") {
                assert_eq!(check(&with_value), Some(said), "{with_value}");
            }
        }
    }

    #[test]
    fn other_mistakes_are_left_to_clap() {
        for line in [
            "plasmd nonsense",
            "plasmd serve --nonsense",
            "plasmd key --signing-keys",
            "phase-verify --no-verify",
            "plasmd serve --port",
            "plasmd --help",
        ] {
            assert_eq!(check(line), None, "{line}");
        }
    }
}
