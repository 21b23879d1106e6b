//! Sentences compared without what differs from machine to machine.

/// A sentence without the places, numbers and identities that differ from machine to machine.
pub(crate) fn skeleton(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (sign, length) = if c == '/' {
            let end = |c: char| c.is_whitespace() || matches!(c, ')' | ':' | ';' | ',' | '`');
            ("PATH", rest.find(end).unwrap_or(rest.len()))
        } else if is_identity(rest) {
            ("IDENTITY", 36)
        } else if c.is_ascii_digit() {
            let end = |c: char| !c.is_ascii_digit() && c != '.';
            ("NUMBER", rest.find(end).unwrap_or(rest.len()))
        } else {
            kept.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        kept.push_str(sign);
        rest = &rest[length..];
    }
    kept
}

fn is_identity(text: &str) -> bool {
    let Some(id) = text.get(..36) else {
        return false;
    };
    let digits = |c: char| c.is_ascii_hexdigit() || c == '-';
    id.chars().all(digits) && id.matches('-').count() == 4
}
