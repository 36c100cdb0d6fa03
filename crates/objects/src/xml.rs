//! The few elements of a store's XML that are read.
//!
//! - *In*: answers of a bounded length.
//! - *Out*: texts of elements.
//! - *Never*: an entity of a document: only the five of XML and numbers are known.

/// The text of the first element of this name.
pub(crate) fn text(xml: &str, name: &str) -> Option<String> {
    elements(xml, name).next().map(unescape)
}

/// The contents of all elements of this name, which do not contain each other.
pub(crate) fn elements<'x>(xml: &'x str, name: &str) -> impl Iterator<Item = &'x str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, from) = rest.split_once(&begin)?;
        let (content, after) = from.split_once(&end)?;
        rest = after;
        Some(content)
    })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, from)) = rest.split_once('&') {
        out.push_str(before);
        let known =
            from.split_once(';').and_then(|(entity, after)| Some((char_of(entity)?, after)));
        match known {
            Some((c, after)) => {
                out.push(c);
                rest = after;
            }
            None => {
                out.push('&');
                rest = from;
            }
        }
    }
    out.push_str(rest);
    out
}

fn char_of(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_and_their_texts() {
        let xml = "<?xml version=\"1.0\"?><R><Contents><Key>a&amp;b&#x2F;&#47;</Key></Contents>\
                   <Contents><Key>c</Key></Contents><IsTruncated>false</IsTruncated></R>";
        let keys: Vec<_> = elements(xml, "Contents").filter_map(|it| text(it, "Key")).collect();
        assert_eq!(keys, ["a&b//", "c"]);
        assert_eq!(text(xml, "IsTruncated").as_deref(), Some("false"));
        assert_eq!(text(xml, "Next"), None);
        for cut in 0..xml.len() {
            // A cut answer gives less, and no panic.
            let found = elements(&xml[..cut], "Contents").filter_map(|it| text(it, "Key")).count();
            assert!(found <= 2);
        }
        assert_eq!(unescape("&unknown; & &#xZZ; &#1114112;"), "&unknown; & &#xZZ; &#1114112;");
    }
}
