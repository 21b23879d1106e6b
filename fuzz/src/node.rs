//! Targets of qm-node: what operators write and ask.

use std::path::Path;

use qm_node::NodeInfo;
use qm_node::admin_json::{Request, decode_request, encode_error, encode_reply};
use qm_wire::limits::ADMIN_BYTES_MAX;

use crate::config::keys::KEYS;
use crate::config::{Flags, Settings, Surroundings, variable_of};
use crate::engine::World;

/// A document of requests and answers.
type Json = serde_json::Value;

/// The text of a configuration file: it is taken, or every fault is told with its cause and a cure;
/// values that were taken are shown in a form that, written to a file or to the environment, gives
/// the same values.
pub fn config_parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let path = Path::new("/etc/qm/qm-node.toml");
    // A home that is not there: no file of this machine is read.
    let mut around = Surroundings::default();
    let home = "/nonexistent".into();
    around.variables.insert("HOME".to_owned(), home);
    let mut settings = Settings::default_in(&around);
    let errors = settings.read_text(path, &text);
    for error in &errors {
        assert!(!error.cause.is_empty() && !error.fix.is_empty());
        if let Some((line, column)) = &error.excerpt {
            assert!(*column <= line.chars().count(), "{error:?}");
        }
    }
    if !errors.is_empty() {
        return;
    }
    let mut written = String::new();
    let mut section = "";
    for key in KEYS {
        if matches!(settings.origin(key.name), crate::config::Origin::Default) {
            continue;
        }
        let value = (key.show)(&settings);
        let (of, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if of != section {
            section = of;
            written.push_str(&format!("[{section}]\n"));
        }
        written.push_str(&format!("{name} = {}\n", key.kind.toml(&value)));
        around.variables.insert(variable_of(key), value.into());
    }
    let mut again = Settings::default_in(&around);
    let errors = again.read_text(path, &written);
    assert!(
        errors.is_empty(),
        "{errors:?} in what was shown:\n{written}"
    );
    assert_same(&settings, &again);
    match Settings::load(&around, &Flags::default()) {
        Ok(again) => assert_same(&settings, &again),
        // Values that are right by themselves may not fit each other.
        Err(errors) => {
            for error in errors {
                assert!(!error.cause.is_empty() && !error.fix.is_empty());
            }
        }
    }
}

fn assert_same(settings: &Settings, again: &Settings) {
    for key in KEYS {
        // Where the socket is depends on where the data are.
        if key.name != "socket" {
            assert_eq!((key.show)(settings), (key.show)(again), "{}", key.name);
        }
    }
}

/// The JSON of an administrative request: understood or refused with words, written again the
/// same, and answered by an engine with JSON that fits a frame.
pub fn admin_json(data: &[u8]) {
    let request: Option<Request> = serde_json::from_slice(data).ok();
    let asked = match decode_request(data) {
        Ok(asked) => asked,
        Err(error) => {
            let answer = encode_error(&error);
            assert!(answer.len() <= ADMIN_BYTES_MAX);
            let answer: Json = serde_json::from_slice(&answer).expect("an answer is JSON");
            assert!(answer.get("schema").is_some(), "{answer}");
            return;
        }
    };
    let request = request.expect("what is asked was understood");
    let written = serde_json::to_vec(&request).expect("a request is JSON");
    assert_eq!(serde_json::from_slice(&written).ok(), Some(request));
    assert_eq!(decode_request(&written).as_ref(), Ok(&asked));

    let mut world = World::new(1);
    world.replies.clear();
    world.ask(asked.request.clone());
    for reply in &world.replies {
        let (_, answer) = encode_reply(reply, &asked.shape, &NodeInfo::of_nobody());
        assert!(answer.len() <= ADMIN_BYTES_MAX);
        let answer: Json = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert!(answer.get("schema").is_some(), "{answer}");
    }
    assert!(!world.replies.is_empty(), "every request is answered");
}
