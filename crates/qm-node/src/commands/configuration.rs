//! What is configured, and whether it is right.

use serde::Serialize;

use crate::config::Settings;
use crate::config::keys::{KEYS, Kind};
use crate::exit::{Exit, Failure};
use crate::output::{Column, Output};

use super::run::warn_of_variables;

/// `qm.setting/1`.
#[derive(Debug, Serialize)]
struct SettingDocument {
    schema: &'static str,
    key: &'static str,
    value: serde_json::Value,
    origin: String,
}

/// `qm.config_check/1`.
#[derive(Debug, Serialize)]
struct CheckDocument {
    schema: &'static str,
    file: Option<String>,
    unknown_variables: Vec<String>,
}

pub(crate) fn show(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    let documents: Vec<SettingDocument> = KEYS
        .iter()
        .map(|key| {
            let text = (key.show)(settings);
            let value = match (key.kind, text.parse::<u64>()) {
                (Kind::Number, Ok(number)) => number.into(),
                _ => text.into(),
            };
            let origin = settings.origin(key.name).to_string();
            SettingDocument {
                schema: "qm.setting/1",
                key: key.name,
                value,
                origin,
            }
        })
        .collect();
    let columns = [
        Column::left("KEY"),
        Column::left("VALUE"),
        Column::left("FROM"),
    ];
    out.list(&documents, columns, |setting| {
        let value = setting
            .value
            .as_str()
            .map_or_else(|| setting.value.to_string(), str::to_owned);
        [setting.key.to_owned(), value, setting.origin.clone()]
    })?;
    warn_of_variables(settings, out);
    Ok(Exit::Done)
}

/// The settings were read without an error, so all that is left is to say so.
pub(crate) fn check(settings: &Settings, out: &Output) -> Result<Exit, Failure> {
    let file = settings
        .file
        .as_ref()
        .map(|file| file.display().to_string());
    if out.json {
        out.document(&CheckDocument {
            schema: "qm.config_check/1",
            file,
            unknown_variables: settings.unknown_variables.clone(),
        })?;
        return Ok(Exit::Done);
    }
    warn_of_variables(settings, out);
    let what = file.unwrap_or_else(|| "there is no configuration file: the defaults".to_owned());
    out.line(&format!("{what}: all right"))?;
    Ok(Exit::Done)
}
