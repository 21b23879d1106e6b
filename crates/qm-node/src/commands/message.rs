//! A message as it is printed.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use qm_client::Received;
use qm_node::admin_json::rfc3339;
use qm_wire::QueueName;
use serde::Serialize;

use crate::output::printable;

/// `qm.message/1`. Properties that are absent are left out; what is not UTF-8 stands in base64
/// under a name of its own.
#[derive(Debug, Serialize)]
pub(crate) struct MessageDocument<'a> {
    schema: &'static str,
    queue: &'a str,
    lookup_id: u64,
    id: String,
    source: String,
    class: &'static str,
    priority: u8,
    sent_at: String,
    arrived_at: String,
    abort_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_be_received_left_ms: Option<u64>,
    /// What became of the message that the correlation id names.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id_base64: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    response_queue: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    admin_queue: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    content_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    trace_context: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    properties: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    properties_base64: BTreeMap<&'a str, String>,
    tag: String,
    body_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl<'a> MessageDocument<'a> {
    pub(crate) fn new(queue: &'a QueueName, message: &'a Received) -> Self {
        let envelope = message.envelope();
        let (correlation_id, correlation_id_base64) = match envelope.correlation_id.as_ref() {
            [] => (None, None),
            bytes => text_or_base64(bytes),
        };
        let (mut properties, mut properties_base64) = (BTreeMap::new(), BTreeMap::new());
        for (name, value) in envelope.properties.iter() {
            match text_or_base64(value) {
                (Some(text), _) => drop(properties.insert(name, text)),
                (None, base64) => drop(properties_base64.insert(name, base64.unwrap_or_default())),
            }
        }
        let (body, body_base64) = text_or_base64(message.body());
        let left = message.time_to_be_received_left();
        Self {
            schema: "qm.message/1",
            queue: queue.as_str(),
            lookup_id: message.lookup_id(),
            id: message.id().to_string(),
            source: message.source().to_string(),
            class: envelope.class.name(),
            priority: envelope.priority.get(),
            sent_at: rfc3339(envelope.sent_at_us),
            arrived_at: rfc3339(message.arrived_at_us()),
            abort_count: message.abort_count(),
            time_to_be_received_left_ms: left
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            report: message.report().map(|outcome| outcome.to_string()),
            label: &envelope.label,
            correlation_id,
            correlation_id_base64,
            response_queue: &envelope.response_queue,
            admin_queue: &envelope.admin_queue,
            content_type: &envelope.content_type,
            trace_context: &envelope.trace_context,
            properties,
            properties_base64,
            tag: message.tag().to_string(),
            body_bytes: message.body().len(),
            file: None,
            body,
            body_base64,
        }
    }

    /// The body lies in a file instead.
    pub(crate) fn in_file(self, file: String) -> Self {
        Self {
            file: Some(file),
            body: None,
            body_base64: None,
            ..self
        }
    }
}

fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_binary) => (None, Some(BASE64.encode(bytes))),
    }
}

/// A body for a terminal: lines and tabs stay, nothing can move the cursor.
pub(crate) fn for_terminal(body: &[u8]) -> String {
    let mut shown = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        for part in chunk.valid().split_inclusive(['\n', '\t']) {
            let end = part.trim_end_matches(['\n', '\t']);
            shown.push_str(&printable(end));
            shown.push_str(part.get(end.len()..).unwrap_or_default());
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// The beginning of a body on one line.
pub(crate) fn preview(body: &[u8], chars_max: usize) -> String {
    let bytes = body
        .get(..body.len().min(chars_max * 4))
        .unwrap_or_default();
    let mut shown = String::new();
    for chunk in bytes.utf8_chunks() {
        shown.push_str(&printable(chunk.valid()));
        // The cut may have gone through a character.
        if !chunk.invalid().is_empty() && bytes.len() == body.len() {
            shown.push_str(
                &chunk
                    .invalid()
                    .iter()
                    .map(|b| format!("\\x{b:02x}"))
                    .collect::<String>(),
            );
        }
    }
    if shown.chars().count() > chars_max || bytes.len() < body.len() {
        shown = shown.chars().take(chars_max.saturating_sub(1)).collect();
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_moves_the_cursor_of_a_terminal() {
        assert_eq!(
            for_terminal(b"a\tb\nc\x1b[2J\r\n"),
            "a\tb\nc\\u{1b}[2J\\r\n"
        );
        assert_eq!(
            for_terminal(b"\xffgr\xc3\xbc\xc3\x9fe\xc3"),
            "\\xffgrüße\\xc3"
        );
    }

    #[test]
    fn previews_are_short_and_on_one_line() {
        assert_eq!(preview(b"two\nlines", 40), "two\\nlines");
        assert_eq!(
            preview("ü".repeat(50).as_bytes(), 10),
            format!("{}…", "ü".repeat(9))
        );
        assert_eq!(preview(&[b'x'; 1_000], 4), "xxx…");
        assert_eq!(preview(b"\xff\xfe", 40), "\\xff\\xfe");
        assert_eq!(preview(b"", 4), "");
    }

    #[test]
    fn bytes_are_text_or_base64() {
        assert_eq!(text_or_base64(b"plain"), (Some("plain"), None));
        assert_eq!(text_or_base64(b"\xff\x00"), (None, Some("/wA=".to_owned())));
    }
}
