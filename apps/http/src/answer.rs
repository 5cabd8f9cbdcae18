//! What to answer to a request. Pure: a head in, an [`Answer`] out.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use godwit::http::{Head, ResponseHead, StatusCode, put_number};

use crate::Content;
use crate::archive::{self, Archive, File};
use crate::generated;
use crate::range::{Wanted, wanted};

/// The body of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// None is sent.
    None,
    /// A few words.
    Text(&'static str),
    /// A part of a content.
    Content(Content, Range<u64>),
}

/// An answer before it is sent.
pub struct Answer {
    /// Its head, except for the last line.
    pub head: ResponseHead,
    /// Its body.
    pub body: Body,
    /// Whether the connection can be kept.
    pub keep: bool,
}

/// The answer to a request with this head.
pub fn answer(archive: Archive, head: &Head) -> Answer {
    let send_body = match &*head.method {
        b"GET" => true,
        b"HEAD" => false,
        _ => return not_allowed(),
    };
    let mut answer = match find(archive, &head.path) {
        Found::Nothing => not_found(),
        Found::BadPath => error(StatusCode(400)),
        Found::Generated(size) => whole_or_part(head, Content::Generated, size, size, None),
        Found::File(file) => whole_or_part(
            head,
            Content::File(file.digest),
            file.bytes.len() as u64,
            0,
            Some(file),
        ),
    };
    if !send_body {
        answer.body = Body::None;
    }
    answer
}

enum Found {
    File(&'static File),
    Generated(u64),
    Nothing,
    BadPath,
}

fn find(archive: Archive, path: &[u8]) -> Found {
    let Some(path) = decode(path) else {
        return Found::BadPath;
    };
    if let Some(size) = path.strip_prefix("/gen/") {
        return generated::size(size).map_or(Found::Nothing, Found::Generated);
    }
    let path = if path.is_empty() { "/" } else { &path };
    archive::by_path(archive, path).map_or(Found::Nothing, Found::File)
}

/// A path with its percent escapes resolved; `None` if it is not sound.
fn decode(path: &[u8]) -> Option<Cow<'_, str>> {
    if !path.contains(&b'%') {
        return str::from_utf8(path).ok().map(Cow::Borrowed);
    }
    let mut octets = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    while let Some(octet) = rest.next() {
        if *octet != b'%' {
            octets.push(*octet);
            continue;
        }
        let mut digit = || char::from(*rest.next()?).to_digit(16);
        let value = (digit()? << 4 | digit()?) as u8;
        if value == 0 {
            return None;
        }
        octets.push(value);
    }
    String::from_utf8(octets).ok().map(Cow::Owned)
}

/// 200, 206, 304 or 416 for a content of `size` octets.
fn whole_or_part(
    head: &Head,
    content: Content,
    size: u64,
    generated_size: u64,
    file: Option<&File>,
) -> Answer {
    let mut etag = Vec::with_capacity(66);
    match file {
        Some(file) => {
            etag.push(b'"');
            etag.extend_from_slice(&file.digest.hex());
        }
        None => {
            etag.extend_from_slice(b"\"gen-v2-");
            put_number(generated_size, &mut etag);
        }
    }
    etag.push(b'"');
    if head
        .if_none_match
        .as_deref()
        .is_some_and(|list| lists(list, &etag))
    {
        return Answer {
            head: ResponseHead::new(StatusCode(304)).field("ETag", etag),
            body: Body::None,
            keep: true,
        };
    }
    // A range of another version of the content is of no use to the client.
    let same = head.if_range.as_deref().is_none_or(|tag| tag == etag);
    let range = head
        .range
        .as_deref()
        .filter(|_| same && head.method == "GET");
    let (status, part) = match range.map_or(Wanted::Whole, |field| wanted(field, size)) {
        Wanted::Whole => (StatusCode(200), 0..size),
        Wanted::Part(part) => (StatusCode(206), part),
        Wanted::Unsatisfiable => {
            let mut answer = error(StatusCode(416));
            answer.head = answer
                .head
                .field("Content-Range", format_args!("bytes */{size}"));
            answer.keep = true;
            return answer;
        }
    };
    let content_type = file.map_or("application/octet-stream", |file| {
        archive::content_type(file.path)
    });
    let mut response = ResponseHead::new(status)
        .field("Content-Type", content_type)
        .field("Content-Length", part.end - part.start)
        .field("Accept-Ranges", "bytes")
        .field("ETag", etag);
    if status.0 == 206 {
        let last = part.end - 1;
        response = response.field(
            "Content-Range",
            format_args!("bytes {}-{last}/{size}", part.start),
        );
    }
    Answer {
        head: response,
        body: Body::Content(content, part),
        keep: true,
    }
}

/// Whether a list of entity tags names this one (weak comparison, RFC 9110 section 13.1.2).
fn lists(list: &[u8], etag: &[u8]) -> bool {
    list.trim_ascii() == b"*"
        || list.split(|octet| *octet == b',').any(|tag| {
            let tag = tag.trim_ascii();
            tag.strip_prefix(b"W/").unwrap_or(tag) == etag
        })
}

fn not_found() -> Answer {
    Answer {
        keep: true,
        ..error(StatusCode(404))
    }
}

fn not_allowed() -> Answer {
    let answer = error(StatusCode(405));
    Answer {
        head: answer.head.field("Allow", "GET, HEAD"),
        keep: true,
        ..answer
    }
}

/// An error's answer. The connection is not kept: after most errors nobody knows where the next
/// request would begin.
pub fn error(status: StatusCode) -> Answer {
    let text = status.reason();
    Answer {
        head: ResponseHead::new(status)
            .field("Content-Type", "text/plain; charset=utf-8")
            .field("Content-Length", text.len()),
        body: Body::Text(text),
        keep: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved_and_checked() {
        assert_eq!(decode(b"/a%20b%C3%A9").as_deref(), Some("/a b\u{e9}"));
        assert_eq!(decode(b"").as_deref(), Some(""));
        for wrong in ["/%", "/%4", "/%zz", "/%+1", "/%00", "/%ff"] {
            assert_eq!(decode(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn entity_tags_are_found_in_lists() {
        assert!(lists(b"\"a\", W/\"b\"", b"\"b\""));
        assert!(lists(b" * ", b"\"b\""));
        assert!(!lists(b"\"bb\"", b"\"b\""));
        assert!(!lists(b"", b"\"b\""));
    }
}
