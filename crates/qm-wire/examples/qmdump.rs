//! Prints the frames of a captured stream so that people can read them.
//!
//! ```sh
//! cargo run -p qm-wire --example qmdump -- peer lane.bin
//! xxd -r -p crates/qm-wire/vectors/v1/data_recoverable_full.hex | qmdump peer
//! ```
//!
//! The first word says whose stream it is: `peer` between nodes, `client` from an application,
//! `node` to an application. Without a file standard input is read. Exits with 1 at the first byte
//! that is no frame, and says where it is.
#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a program that complains")]

use std::fmt::Debug;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use bytes::{Buf, Bytes};
use qm_wire::frame::{FrameKind, RawFrame, split_frame};
use qm_wire::limits::{BODY_BYTES_MAX, data_frame_bytes};
use qm_wire::local::{ClientFrame, NodeFrame};
use qm_wire::{DecodeError, Envelope, OpenError, PeerFrame};

/// How many bytes of a body are shown.
const BODY_SHOWN: usize = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (whose, file) = match *words {
        [whose @ ("peer" | "client" | "node")] => (whose, None),
        [whose @ ("peer" | "client" | "node"), file] => (whose, Some(file)),
        _ => {
            eprintln!("usage: qmdump peer|client|node [FILE]");
            return ExitCode::from(2);
        }
    };
    let read = match file {
        Some(file) => std::fs::read(file),
        None => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
        }
    };
    let stream = match read {
        Ok(bytes) => Bytes::from(bytes),
        Err(error) => {
            eprintln!(
                "qmdump: reading {}: {error}",
                file.unwrap_or("standard input")
            );
            return ExitCode::from(2);
        }
    };
    match dump(whose, &stream, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Whoever read this has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qmdump: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all of it was frames.
fn dump(whose: &str, stream: &Bytes, to: &mut impl Write) -> io::Result<bool> {
    let (mut rest, mut frames) = (stream.clone(), 0_u64);
    loop {
        let at = stream.len().saturating_sub(rest.len());
        let raw = match split_frame(&mut rest, data_frame_bytes(BODY_BYTES_MAX as usize)) {
            Ok(Some(raw)) => raw,
            Ok(None) if rest.has_remaining() => {
                let left = rest.len();
                writeln!(to, "{at:>8}  {left} bytes of a frame that is not all there")?;
                return Ok(false);
            }
            Ok(None) => {
                writeln!(to, "{frames} frames, {} bytes", stream.len())?;
                return Ok(true);
            }
            Err(error) => {
                writeln!(to, "{at:>8}  no frame: {error}")?;
                return Ok(false);
            }
        };
        let name = FrameKind::from_code(raw.kind).map_or_else(
            || format!("kind {:#04x}", raw.kind),
            |kind| format!("{kind:?}"),
        );
        writeln!(
            to,
            "{at:>8}  {name}, flags {:#06x}, {} bytes, checksum {:08x}",
            raw.flags,
            raw.body.len(),
            raw.checksum
        )?;
        frames = frames.saturating_add(1);
        let mut page = Page(String::new());
        let shown = show(whose, &raw, &mut page);
        to.write_all(page.0.as_bytes())?;
        if let Err(error) = shown {
            writeln!(to, "{:>12}refused: {error}", "")?;
            return Ok(false);
        }
    }
}

fn show(whose: &str, raw: &RawFrame, page: &mut Page) -> Result<(), DecodeError> {
    match whose {
        "client" => match ClientFrame::decode(raw)? {
            ClientFrame::Put(mut put) => {
                let body = std::mem::take(&mut put.body);
                page.fields(&put);
                page.show_body(&body);
            }
            ClientFrame::Admin(admin) => {
                page.line("request", &admin.request.to_string());
                page.line("JSON", &String::from_utf8_lossy(&admin.json));
            }
            frame => page.fields(&frame),
        },
        "node" => match NodeFrame::decode(raw)? {
            NodeFrame::Delivery(mut delivery) => {
                let opened = delivery.open();
                let body = std::mem::take(&mut delivery.body);
                delivery.envelope = Bytes::new();
                page.fields(&delivery);
                page.message(opened, &body);
            }
            NodeFrame::AdminReply(reply) => {
                page.line("request", &reply.request.to_string());
                page.line("ok", &reply.ok.to_string());
                page.line("JSON", &String::from_utf8_lossy(&reply.json));
            }
            frame => page.fields(&frame),
        },
        _ => match PeerFrame::decode(raw)? {
            PeerFrame::Data(data) => {
                page.line("number", &data.number.to_string());
                page.line("tag", &data.tag.to_string());
                page.fields(&data.transit);
                page.message(data.open(), &data.body);
            }
            PeerFrame::Announce(announce) => {
                page.line("number", &announce.number.to_string());
                page.line("tag", &announce.tag.to_string());
                page.fields(&announce.transit);
                match Envelope::decode(&announce.envelope) {
                    Ok(envelope) => page.fields(&envelope),
                    Err(error) => page.line("envelope", &format!("malformed: {error}")),
                }
            }
            frame => page.fields(&frame),
        },
    }
    Ok(())
}

/// What is printed of one frame.
struct Page(String);

impl Page {
    /// A message with what its tag says of it.
    fn message(&mut self, opened: Result<Envelope, OpenError>, body: &[u8]) {
        match opened {
            Ok(envelope) => {
                self.fields(&envelope);
                self.line("tag matches", "true");
            }
            Err(OpenError::Damaged(envelope)) => {
                self.fields(&envelope);
                self.line("tag matches", "FALSE: the message is damaged");
            }
            Err(error) => self.line("envelope", &error.to_string()),
        }
        self.show_body(body);
    }

    /// A value's fields, one a line, as Rust shows them; bytes as hexadecimal digits.
    fn fields(&mut self, value: &impl Debug) {
        let text = format!("{value:#?}");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for text in folded(lines).iter().skip(1) {
            if text != "}" && text != ")" {
                self.0.push_str("        ");
                self.0.push_str(text);
                self.0.push('\n');
            }
        }
    }

    fn line(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!("{:>12}{name}: {value}\n", ""));
    }

    fn show_body(&mut self, body: &[u8]) {
        let shown = body.get(..BODY_SHOWN).unwrap_or(body);
        // Escaped: a terminal obeys control characters.
        let more = if shown.len() < body.len() { " …" } else { "" };
        self.line(
            &format!("body, {} bytes", body.len()),
            &format!("\"{}\"{more}", shown.escape_ascii()),
        );
    }
}

/// Puts what Rust shows over several lines into one: arrays of bytes, and wrappers of one value.
fn folded(lines: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for line in lines {
        let closes = line.trim_start().chars().next();
        if let (Some(']' | ')'), Some(open)) = (
            closes,
            out.iter().rposition(|line| line.ends_with(['[', '('])),
        ) {
            let inner: Vec<String> = out.drain(open..).collect();
            let (head, values) = inner
                .split_first()
                .map_or(("", &[][..]), |(head, values)| (head.as_str(), values));
            let values: Vec<&str> = values
                .iter()
                .map(|value| value.trim().trim_end_matches(','))
                .collect();
            let bytes: Option<Vec<u8>> = values.iter().map(|value| value.parse().ok()).collect();
            let tail = line.trim_start();
            let is_array = head.ends_with('[') && !values.is_empty();
            match (bytes, values.as_slice()) {
                (Some(bytes), _) if is_array => {
                    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    let head = head.trim_end_matches('[');
                    let tail = tail.trim_start_matches(']');
                    out.push(format!("{head}{digits}{tail}"));
                }
                (_, [value]) if head.ends_with('(') => out.push(format!("{head}{value}{tail}")),
                _ => {
                    out.extend(inner);
                    out.push(line);
                }
            }
        } else {
            out.push(line);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(name: &str) -> Vec<u8> {
        let path = format!("{}/vectors/v1/{name}.hex", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("a vector");
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(pair), 16);
        digits
            .chunks(2)
            .map(pair)
            .collect::<Result<_, _>>()
            .expect("digits")
    }

    fn dumped(whose: &str, names: &[&str]) -> (bool, String) {
        let stream: Vec<u8> = names.iter().flat_map(|name| vector(name)).collect();
        let mut to = Vec::new();
        let whole = dump(whose, &stream.into(), &mut to).expect("memory takes everything");
        (whole, String::from_utf8(to).expect("text"))
    }

    #[test]
    fn a_stream_is_shown_frame_by_frame() {
        let (whole, text) = dumped(
            "peer",
            &["hello_full", "data_recoverable_full", "order_ack"],
        );
        assert!(whole, "{text}");
        for part in [
            "Hello, flags",
            "name: \"till 3\"",
            "tag matches: true",
            "3 frames",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(
            text.contains("salt: Salt(7369787465656e2073616c7420627974)"),
            "{text}"
        );
    }

    #[test]
    fn damage_is_shown_where_it_is() {
        let (whole, text) = dumped("peer", &["credit", "invalid/damaged_body"]);
        assert!(whole && text.contains("FALSE"), "{text}");
        let (whole, text) = dumped("peer", &["credit", "invalid/checksum_body"]);
        assert!(
            !whole && text.contains("refused: the frame's checksum"),
            "{text}"
        );
        let (whole, text) = dumped("client", &["put_full", "invalid/magic"]);
        assert!(!whole && text.contains("no frame"), "{text}");
    }
}
