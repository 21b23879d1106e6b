//! What is wrong with a command line, in the words of the table of errors.

use std::error::Error as _;
use std::fmt;

use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use qm_wire::{AddressError, DecodeError, Destination, QueueName};

use crate::exit::Failure;

/// A destination that cannot be read, with the text it was.
#[derive(Debug)]
pub(super) struct BadDestination {
    text: String,
    error: AddressError,
}

impl fmt::Display for BadDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for BadDestination {}

pub(super) fn parse_destination(text: &str) -> Result<Destination, BadDestination> {
    text.parse().map_err(|error| BadDestination {
        text: text.to_owned(),
        error,
    })
}

/// A queue of this node, by its name alone.
pub(super) fn parse_queue(text: &str) -> Result<QueueName, String> {
    text.parse().map_err(|error| match error {
        DecodeError::Invalid { value: 0, .. } if text.is_empty() => "it is empty".to_owned(),
        DecodeError::Invalid { value: 0, .. } => "a part of it is empty".to_owned(),
        DecodeError::Invalid { value: 0x20, .. } => {
            "a space begins or ends a part of it".to_owned()
        }
        DecodeError::Invalid { value: 0x2f, .. } => {
            "it is a queue of this node: write its name without a node and a `/`".to_owned()
        }
        DecodeError::Invalid { value, .. } => {
            let c = u32::try_from(value).ok().and_then(char::from_u32);
            let c = c.unwrap_or(char::REPLACEMENT_CHARACTER);
            format!("{c:?} may not stand in the name of a queue")
        }
        DecodeError::OverLimit { value, limit, .. } => {
            format!("it has {value} characters, and {limit} are possible")
        }
        DecodeError::Text { .. } => "it contains a control character".to_owned(),
        other => other.to_string(),
    })
}

impl BadDestination {
    fn failure(&self) -> Failure {
        let told = self.error.to_string();
        let (cause, fix) = told.split_once("; ").unwrap_or((&told, ""));
        let failure = Failure::of("destination", cause);
        let excerpt = self.error.offset().map(|offset| {
            let before = self.text.get(..offset).unwrap_or(&self.text);
            Box::new((self.text.clone(), before.chars().count()))
        });
        Failure {
            excerpt,
            ..failure.with_fix(fix)
        }
    }
}

/// The failure that an error of a command line is; `typed` are its words behind the program's name.
pub(crate) fn misuse(error: &clap::Error, typed: &[String]) -> Failure {
    let wrong = error.source();
    if let Some(wrong) = wrong.and_then(|source| source.downcast_ref::<BadDestination>()) {
        return wrong.failure();
    }
    // Clap's own text is `error: cause`, then paragraphs of tips, usage and a hint at --help.
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n").map(one_line);
    let cause = paragraphs.next().unwrap_or_default();
    let cause = cause.strip_prefix("error: ").unwrap_or(&cause);
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Failure::usage("no command is given", "`qm-node help` shows them all");
    }
    let mut fixes: Vec<String> = paragraphs
        .filter_map(|paragraph| {
            if let Some(usage) = paragraph.strip_prefix("Usage: ") {
                return Some(format!("usage: {usage}"));
            }
            paragraph.strip_prefix("tip: ").map(str::to_owned)
        })
        .collect();
    let command = command_of(error).unwrap_or_else(|| typed_command(typed));
    fixes.push(format!("`{command}` shows what is possible"));
    Failure::usage(cause, fixes.join("; "))
}

/// The same from what was typed: an error about a value does not say to which command it belongs.
fn typed_command(typed: &[String]) -> String {
    let cli = crate::cli::Cli::command();
    let mut command = &cli;
    let mut help = "qm-node help".to_owned();
    let mut words = typed.iter();
    while let Some(word) = words.next() {
        if ["--data", "--socket", "--config"].contains(&word.as_str()) {
            words.next();
        } else if let Some(found) = command.find_subcommand(word) {
            help.push(' ');
            help.push_str(found.get_name());
            command = found;
        }
    }
    help
}

/// The command that shows the help of what was typed, when the error says which it is.
fn command_of(error: &clap::Error) -> Option<String> {
    let ContextValue::StyledStr(usage) = error.get(ContextKind::Usage)? else {
        return None;
    };
    let usage = one_line(&usage.to_string());
    let words = usage.strip_prefix("Usage: ")?.split(' ');
    let words: Vec<&str> = words
        .take_while(|word| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
        .take_while(|word| !word.starts_with("--"))
        .collect();
    let (program, command) = words.split_first()?;
    Some(
        format!("{program} help {}", command.join(" "))
            .trim_end()
            .to_owned(),
    )
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;
    use crate::exit::Exit;

    use super::*;

    fn wrong(args: &[&str]) -> Failure {
        let error = Cli::try_parse_from([&["qm-node"], args].concat()).unwrap_err();
        let typed: Vec<_> = args.iter().map(|word| (*word).to_owned()).collect();
        misuse(&error, &typed)
    }

    #[test]
    fn a_mistake_names_what_is_wrong_and_what_was_meant() {
        for (args, cause, fix) in [
            (
                &["send", "q", "x", "--priority", "9"][..],
                "invalid value '9' for '--priority <N>': write a whole number from 0 to 7",
                "`qm-node help send` shows",
            ),
            (
                &["--data", "send", "queue", "create", "a;b"],
                "invalid value 'a;b' for '<NAME>': ';' may not stand in the name of a queue",
                "`qm-node help queue create` shows",
            ),
            (
                &["peek", "hub/q"],
                "invalid value 'hub/q' for '<QUEUE>': it is a queue of this node: write its name \
                 without a node and a `/`",
                "`qm-node help peek` shows",
            ),
            (
                &["receive", "q", "--count", "0"],
                "invalid value '0' for '--count <N>': write a whole number above 0",
                "`qm-node help receive` shows",
            ),
            (
                &["send", "q", "x", "--prio", "1"],
                "unexpected argument '--prio' found",
                "a similar argument exists: '--priority'; usage: qm-node send",
            ),
            (
                &["queue", "lst"],
                "unrecognized subcommand 'lst'",
                "a similar subcommand exists: 'list'",
            ),
            (
                &["send"],
                "the following required arguments were not provided: <DEST>",
                "`qm-node help send` shows",
            ),
            (
                &["send", "q", "x", "--file", "f"],
                "the argument '[BODY]' cannot be used with '--file <FILE>'",
                "usage: qm-node send",
            ),
            (
                &["send", "q", "x", "--wait", "delivred"],
                "invalid value 'delivred' for '--wait <UNTIL>' [possible values: accepted, delivered, received]",
                "a similar value exists: 'delivered'",
            ),
            (&["queue"], "no command is given", "`qm-node help`"),
        ] {
            let failure = wrong(args);
            assert_eq!((failure.exit, &*failure.code), (Exit::Usage, "usage"));
            assert_eq!(failure.cause, cause, "{args:?}");
            assert!(failure.fix.contains(fix), "{args:?}: {}", failure.fix);
        }
    }

    #[test]
    fn a_destination_is_pointed_into() {
        let column = |text: &str| {
            let failure = wrong(&["send", text, "x"]);
            assert_eq!((failure.exit, &*failure.code), (Exit::Usage, "destination"));
            assert!(
                !failure.cause.is_empty() && failure.fix.contains("`qm://"),
                "{failure:?}"
            );
            failure.excerpt.map(|excerpt| {
                let (line, column) = *excerpt;
                assert_eq!(line, text);
                column
            })
        };
        for (text, at) in [
            // URLs.
            ("qm://hub:x/q", Some(9)),
            ("qm://hub:70000/q", Some(9)),
            ("qm://hub:0/q", Some(9)),
            ("qm://hub", Some(8)),
            ("qm://hub/", Some(9)),
            ("qm:///q", Some(5)),
            ("qm://hü/q", Some(6)),
            ("qm://hub_/a b\\c", Some(13)),
            ("qm://fe80::1/q", Some(5)),
            ("qm://[fe80::1/q", Some(5)),
            ("qm://[fe80::z]/q", Some(6)),
            ("qm://[fe80::1]x/q", Some(14)),
            ("qm://1.2.3.400/q", Some(5)),
            ("qm://0190@hub/q", Some(5)),
            ("http://hub/q", None),
            // By identity and by the address book.
            ("qm:6d7f2a10-0000-8000-8000-00000000000/q", Some(3)),
            ("qm:6d7f2a10-0000-8000-8000-000000000001", Some(39)),
            ("hub/", Some(4)),
            ("/q", Some(0)),
            ("hub:1801/q", Some(3)),
            ("grüße/q%4", Some(7)),
            ("grüße/q%GG", Some(7)),
            ("q%ff", Some(1)),
            // Queues of this node.
            ("", None),
            ("a:b:c", Some(3)),
            ("a:", Some(0)),
            // MSMQ's names.
            ("hub\\private$\\q", Some(3)),
            ("DIRECT=HTTP:hub\\q", Some(7)),
            ("DIRECT=TCP:hub\\private$\\q", Some(11)),
            ("DIRECT=OS:hub", Some(13)),
            ("DIRECT=OS:hub\\private$\\q;journal", Some(25)),
            ("FormatName:PUBLIC=6d7f2a10", Some(11)),
            ("DIRECT=OS:\\q", Some(10)),
        ] {
            assert_eq!(column(text), at, "{text}");
        }
    }
}
