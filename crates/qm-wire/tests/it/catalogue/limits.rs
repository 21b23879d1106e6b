//! Invalid vectors: one more than a limit allows, for the limits whose vectors stand nowhere else.

use qm_wire::limits::{
    ADMIN_BYTES_MAX, ADMIN_FIXED_BYTES, ANSWER_TEXT_BYTES_MAX, BODY_PART_BYTES_MAX,
    BODY_PART_FIXED_BYTES, CONTENT_TYPE_BYTES_MAX, ENROLMENT_BYTES_MAX, EVICTED_MARKS_MAX,
    FATE_RUNS_MAX, GOODBYE_TEXT_BYTES_MAX, NAME_BYTES_MAX, SUBQUEUE_NAME_CHARS_MAX,
};

use super::{Invalid, Reader, credit_header, envelope_field, frame, le16};

fn short(length: usize) -> Vec<u8> {
    let mut bytes = le16(length).to_vec();
    bytes.extend(vec![b'x'; length]);
    bytes
}

/// A hello with a token, an enrolment token, a node name and a host name of so many bytes.
fn hello(lengths: [usize; 4]) -> Vec<u8> {
    let mut body = vec![1, 0, 1, 0];
    body.extend([0; 25]);
    lengths
        .iter()
        .for_each(|length| body.extend(short(*length)));
    frame(0x01, 0, &body)
}

/// A header that announces a body of so many bytes.
fn header(kind: u8, length: usize) -> Vec<u8> {
    let mut bytes = credit_header();
    bytes[3] = kind;
    bytes[8..12].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    bytes
}

pub(super) fn invalid(list: &mut Vec<Invalid>) {
    let mut add = |name, about, reader, bytes| {
        list.push(Invalid {
            name,
            about,
            requirement: "W-LIM-1",
            reader,
            bytes,
        });
    };
    add(
        "hello_enrolment_over_limit",
        "an enrolment token of 513 bytes",
        Reader::Peer,
        hello([0, ENROLMENT_BYTES_MAX + 1, 0, 0]),
    );
    add(
        "hello_name_over_limit",
        "a node name of 256 bytes",
        Reader::Peer,
        hello([0, 0, NAME_BYTES_MAX + 1, 0]),
    );
    add(
        "hello_host_over_limit",
        "a host name of 256 bytes",
        Reader::Peer,
        hello([0, 0, 0, NAME_BYTES_MAX + 1]),
    );
    add(
        "goodbye_text_over_limit",
        "a text of 513 bytes",
        Reader::Peer,
        frame(
            0x08,
            0,
            &[&[0, 0], &*short(GOODBYE_TEXT_BYTES_MAX + 1)].concat(),
        ),
    );
    add("evicted_marks_over_limit", "257 marks", Reader::Peer, {
        let mut body = vec![0; 16];
        body.extend(le16(EVICTED_MARKS_MAX + 1));
        body.extend(vec![1; (EVICTED_MARKS_MAX + 1) * 16]);
        frame(0x2c, 0, &body)
    });
    add(
        "refused_text_over_limit",
        "an answer with a text of 513 bytes",
        Reader::Node,
        {
            let mut body = 1_u64.to_le_bytes().to_vec();
            body.extend([1, 0x80]);
            body.extend(short(ANSWER_TEXT_BYTES_MAX + 1));
            frame(0x44, 0, &body)
        },
    );
    add(
        "fate_runs_over_limit",
        "4097 runs announced",
        Reader::Node,
        frame(0x45, 0, &le16(FATE_RUNS_MAX + 1)),
    );
    add(
        "queue_subqueue_over_limit",
        "a subqueue of 33 characters",
        Reader::Envelope,
        envelope_field(
            0,
            format!("q:{}", "x".repeat(SUBQUEUE_NAME_CHARS_MAX + 1)).as_bytes(),
        ),
    );
    add(
        "content_type_over_limit",
        "256 bytes",
        Reader::Envelope,
        envelope_field(5, &[b'a'; CONTENT_TYPE_BYTES_MAX + 1]),
    );
    let mut add = |name, about, reader, bytes| {
        list.push(Invalid {
            name,
            about,
            requirement: "W-FRM-4",
            reader,
            bytes,
        });
    };
    add(
        "length_over_body_part_limit",
        "a header that announces one byte more than a part of 1 MiB takes",
        Reader::Peer,
        header(0x14, BODY_PART_FIXED_BYTES + BODY_PART_BYTES_MAX + 1),
    );
    add(
        "length_over_admin_limit",
        "a header that announces one byte more than JSON of 1 MiB takes",
        Reader::Client,
        header(0x4b, ADMIN_FIXED_BYTES + ADMIN_BYTES_MAX + 1),
    );
}
