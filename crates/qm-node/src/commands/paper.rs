//! What can be read about the program: error codes, completions, manual pages.

use std::path::Path;

use clap::CommandFactory as _;
use qm_node::errors;
use qm_wire::Outcome;
use serde::Serialize;

use crate::cli::Cli;
use crate::exit::{Exit, Failure, fix_of};
use crate::output::{Column, Output};

/// `qm.error_code/1`.
#[derive(Debug, Serialize)]
pub(crate) struct CodeDocument {
    schema: &'static str,
    pub(crate) code: &'static str,
    /// Four hexadecimal digits, for outcomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<String>,
    pub(crate) exit: u8,
    pub(crate) meaning: &'static str,
    /// A cause as it is printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) example: Option<&'static str>,
    pub(crate) fix: &'static str,
}

pub(crate) fn errors(code: Option<&str>, out: &Output) -> Result<Exit, Failure> {
    let mut codes = all_codes();
    if let Some(wanted) = code {
        // As an error prints it, a code may be followed by its name.
        let word = wanted
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let digits = |code: &CodeDocument| code.outcome.as_ref().map(|o| o.to_ascii_lowercase());
        codes.retain(|code| code.code == word || digits(code).as_ref() == Some(&word));
        if codes.is_empty() {
            let cause = format!("there is no error code `{wanted}`");
            return Err(Failure::usage(cause, "`qm-node errors` lists them all"));
        }
        if let ([code], false) = (&*codes, out.json) {
            let mut facts = vec![("name", code.code.to_owned())];
            facts.extend(code.outcome.clone().map(|digits| ("code", digits)));
            facts.push(("exit", code.exit.to_string()));
            facts.push(("meaning", code.meaning.to_owned()));
            facts.extend(code.example.map(|text| ("example", text.to_owned())));
            facts.push(("fix", code.fix.to_owned()));
            out.facts(&facts)?;
            return Ok(Exit::Done);
        }
    }
    let columns = [
        Column::left("CODE"),
        Column::left("NAME"),
        Column::right("EXIT"),
        Column::left("MEANING"),
        Column::left("WHAT TO DO"),
    ];
    out.list(&codes, columns, |code| {
        [
            code.outcome.clone().unwrap_or_else(|| "-".to_owned()),
            code.code.to_owned(),
            code.exit.to_string(),
            code.meaning.to_owned(),
            code.fix.to_owned(),
        ]
    })?;
    Ok(Exit::Done)
}

/// Errors of the program, then the outcomes of messages.
pub(crate) fn all_codes() -> Vec<CodeDocument> {
    let own = errors::ALL.iter().map(|known| CodeDocument {
        schema: "qm.error_code/1",
        code: known.code,
        outcome: None,
        exit: known.exit,
        meaning: known.meaning,
        example: Some(known.example),
        fix: known.fix,
    });
    let outcomes = Outcome::ALL.iter().map(|outcome| CodeDocument {
        schema: "qm.error_code/1",
        code: outcome.name().unwrap_or_default(),
        outcome: Some(format!("{:04X}", outcome.0)),
        exit: if outcome.is_positive() {
            Exit::Done
        } else {
            Exit::Rejected
        } as u8,
        meaning: outcome.describe(),
        example: None,
        fix: fix_of(*outcome),
    });
    own.chain(outcomes).collect()
}

pub(crate) fn completions(shell: clap_complete::Shell, out: &Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "qm-node", &mut script);
    out.bytes(&script)?;
    Ok(Exit::Done)
}

pub(crate) fn man(dir: Option<&Path>, out: &Output) -> Result<Exit, Failure> {
    if let Some(dir) = dir {
        clap_mangen::generate_to(Cli::command(), dir)
            .map_err(|e| Failure::io(dir.display(), &e))?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut page)
        .map_err(|e| Failure::io("the manual page", &e))?;
    out.bytes(&page)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod page;
