//! What a partial clone leaves out (`git rev-list --filter`). `sparse:oid` is never served: it
//! would make the server read a specification out of the repository.

use libgit::ObjectKind;
use serde::{Deserialize, Serialize};

use super::{bad, number};
use crate::wire_error::{WireError, quote};

/// Longest specification in bytes.
const SPEC_MAX: usize = 4096;
/// Most parts of one combination, in all its levels.
const PARTS_MAX: usize = 16;

/// A filter specification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Filter {
    /// `blob:none`
    NoBlobs,
    /// `blob:limit=N`: no blobs of N bytes or more.
    BlobLimit(u64),
    /// `tree:N`: no trees and blobs at this depth below a root tree or deeper.
    TreeDepth(u64),
    /// `object:type=…`
    Type(ObjectKind),
    /// `combine:A+B`: only what every part keeps; combinations within are dissolved.
    All(Vec<Filter>),
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Filter::NoBlobs => f.write_str("blob:none"),
            Filter::BlobLimit(limit) => write!(f, "blob:limit={limit}"),
            Filter::TreeDepth(depth) => write!(f, "tree:{depth}"),
            Filter::Type(kind) => write!(f, "object:type={}", kind.name()),
            Filter::All(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if at == 0 { "combine:" } else { "+" })?;
                }
                Ok(())
            }
        }
    }
}

impl Filter {
    /// Parses a specification as a client sends it.
    pub fn parse(spec: &[u8]) -> Result<Filter, WireError> {
        if spec.len() > SPEC_MAX {
            return Err(bad("filter", spec));
        }
        let mut parts = Vec::new();
        parse_into(spec, 0, &mut parts)?;
        match parts.pop() {
            Some(one) if parts.is_empty() => Ok(one),
            Some(last) => {
                parts.push(last);
                Ok(Filter::All(parts))
            }
            None => Err(bad("filter", spec)),
        }
    }
}

fn parse_into(spec: &[u8], level: usize, parts: &mut Vec<Filter>) -> Result<(), WireError> {
    if parts.len() >= PARTS_MAX {
        return Err(WireError::Limit("filters", PARTS_MAX as u64));
    }
    let one = if spec == b"blob:none" {
        Filter::NoBlobs
    } else if let Some(limit) = spec.strip_prefix(b"blob:limit=") {
        Filter::BlobLimit(size(limit)?)
    } else if let Some(depth) = spec.strip_prefix(b"tree:") {
        Filter::TreeDepth(number("filter", depth)?)
    } else if let Some(name) = spec.strip_prefix(b"object:type=") {
        Filter::Type(ObjectKind::from_name(name).ok_or_else(|| bad("filter", name))?)
    } else if let Some(list) = spec.strip_prefix(b"combine:") {
        if level > 2 || list.is_empty() {
            return Err(bad("filter", spec));
        }
        for part in list.split(|&b| b == b'+') {
            parse_into(&url_decode(part)?, level + 1, parts)?;
        }
        return Ok(());
    } else {
        return Err(WireError::Unknown("filter", quote(spec)));
    };
    parts.push(one);
    Ok(())
}

/// A number of bytes with an optional k, m or g.
fn size(text: &[u8]) -> Result<u64, WireError> {
    let (digits, factor) = match text {
        [digits @ .., b'k' | b'K'] => (digits, 1 << 10),
        [digits @ .., b'm' | b'M'] => (digits, 1 << 20),
        [digits @ .., b'g' | b'G'] => (digits, 1 << 30),
        digits => (digits, 1),
    };
    number("filter", digits)?.checked_mul(factor).ok_or_else(|| bad("filter", text))
}

/// Undoes `%XX`, with which parts of a combination hide their own signs.
fn url_decode(text: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            out.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(|| bad("filter", text))?;
        let digit = |b: u8| char::from(b).to_digit(16).ok_or_else(|| bad("filter", text));
        let byte = digit(digits[0])? * 16 + digit(digits[1])?;
        out.push(u8::try_from(byte).map_err(|_| bad("filter", text))?);
        rest = after;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn specifications() {
        let parse = |spec: &str| Filter::parse(spec.as_bytes());
        assert_eq!(parse("blob:none"), Ok(Filter::NoBlobs));
        assert_eq!(parse("blob:limit=1k"), Ok(Filter::BlobLimit(1024)));
        assert_eq!(parse("blob:limit=0"), Ok(Filter::BlobLimit(0)));
        assert_eq!(parse("tree:0"), Ok(Filter::TreeDepth(0)));
        assert_eq!(parse("object:type=tag"), Ok(Filter::Type(ObjectKind::Tag)));
        assert_eq!(
            parse("combine:blob:none+tree:3"),
            Ok(Filter::All(vec![Filter::NoBlobs, Filter::TreeDepth(3)]))
        );
        assert_eq!(parse("combine:blob%3Anone"), Ok(Filter::NoBlobs));
        let nested = Filter::All(vec![Filter::TreeDepth(1), Filter::NoBlobs, Filter::TreeDepth(2)]);
        assert_eq!(nested.to_string(), "combine:tree:1+blob:none+tree:2");
        assert_eq!(parse(&nested.to_string()), Ok(nested.clone()));
        assert_eq!(parse("combine:tree:1+combine:blob:none%2btree:2"), Ok(nested));
    }

    #[test]
    fn what_is_refused() {
        for spec in [
            "",
            "blob",
            "blob:none ",
            "blob:limit=",
            "blob:limit=k",
            "blob:limit=99999999999999999g",
            "tree:-1",
            "tree:",
            "object:type=x",
            "sparse:oid=main:x",
            "sparse:path=x",
            "combine:",
            "combine:blob:none+",
            "combine:%",
            "combine:%zz",
            "combine:combine:combine:combine:blob:none",
        ] {
            assert!(Filter::parse(spec.as_bytes()).is_err(), "{spec}");
        }
        let many = format!("combine:{}", vec!["tree:1"; 17].join("+"));
        assert_eq!(Filter::parse(many.as_bytes()), Err(WireError::Limit("filters", 16)));
        assert!(Filter::parse(&[b'x'; SPEC_MAX + 1]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Filter::parse(&bytes);
            let _ = Filter::parse(&[b"combine:".as_slice(), &bytes].concat());
        }
    }
}
