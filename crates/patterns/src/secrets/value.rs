//! The value inside a match that includes the name of the value.
//!
//! - *In*: a match of a rule of `assigned.rs`, or the beginning of one.
//! - *Out*: the range of the value.
//! - *Never*: a name, an operator, or a quotation mark around the value.

use std::ops::Range;

const QUOTES: [char; 3] = ['"', '\'', '`'];

/// The range of the value in `text`; all of it if there is no name.
pub(crate) fn value(text: &str) -> Range<usize> {
    let range = element(text)
        .or_else(|| option(text))
        .or_else(|| quoted(text))
        .or_else(|| assigned(text))
        .or_else(|| last_word(text));
    range.filter(|range| range.start < range.end).unwrap_or(0..text.len())
}

/// `<password>VALUE</`
fn element(text: &str) -> Option<Range<usize>> {
    let start = text.strip_prefix('<').and_then(|rest| rest.find('>'))? + 2;
    Some(start..text.strip_suffix("</").map_or(text.len(), str::len))
}

/// `--password VALUE`, `--password=VALUE`, `mysql -u root -pVALUE`. Of several `-p`, the value
/// begins at the first one: each can be the password.
fn option(text: &str) -> Option<Range<usize>> {
    if text.starts_with("--") {
        let start = text.find(['=', ' '])? + 1;
        return Some(start + quotes(text.get(start..)?)..text.len());
    }
    let start = text.find(" -p")? + 3;
    let rest = text.get(start..)?;
    Some(start + (rest.len() - rest.trim_start_matches(' ').len())..text.len())
}

/// A value in quotation marks at the end.
fn quoted(text: &str) -> Option<Range<usize>> {
    let quote = text.chars().next_back().filter(|c| QUOTES.contains(c))?;
    let inner = text.get(..text.len() - quote.len_utf8())?;
    let start = inner.rfind(quote)? + quote.len_utf8();
    Some(start..inner.len())
}

/// A value after an operator, perhaps after an opening quotation mark.
fn assigned(text: &str) -> Option<Range<usize>> {
    let (at, operator) =
        text.char_indices().find(|(_, c)| matches!(c, '=' | ':' | '：' | 'は' | '是'))?;
    let start = at + operator.len_utf8();
    let rest = text.get(start..)?;
    let after = rest.trim_start_matches(['=', ':', '>', ' ', '\t']);
    let start = start + rest.len() - after.len();
    Some(start + quotes(after)..text.len())
}

/// The last word.
fn last_word(text: &str) -> Option<Range<usize>> {
    let start = text.rfind([' ', '\t', '\r', '\n'])? + 1;
    Some(start + quotes(text.get(start..)?)..text.len())
}

/// Number of bytes of quotation marks at the beginning.
fn quotes(text: &str) -> usize {
    text.len() - text.trim_start_matches(['"', '\'', '`', '\\']).len()
}

#[cfg(test)]
mod tests {
    #[test]
    fn value_has_neither_name_nor_quotation_marks() {
        for (text, value) in [
            ("API_TOKEN=q7Zr92kLmNo", "q7Zr92kLmNo"),
            ("password = \"mo9!Rauchquarz\"", "mo9!Rauchquarz"),
            ("passwd := 'a=b:c'", "a=b:c"),
            ("password\"] = \"Tr0ub4dor&3\"", "Tr0ub4dor&3"),
            ("secret => `x:y z`", "x:y z"),
            ("token: abc=def", "abc=def"),
            ("--password \"mo9!Rauch", "mo9!Rauch"),
            ("--token=ab:cd=ef", "ab:cd=ef"),
            ("mysql -u root -ph4nter2", "h4nter2"),
            ("mysql -ph4nter2 -pOther1234", "h4nter2 -pOther1234"),
            ("psexec \\\\host -u x -p h4nter2", "h4nter2"),
            ("<db:password>a b=c</", "a b=c"),
            ("login bob password hunter22", "hunter22"),
            ("password is 'hunter22'", "hunter22"),
            ("Passwort ist hunter22", "hunter22"),
            ("密码是hunter22x", "hunter22x"),
            ("パスワードはhunter22x", "hunter22x"),
            ("password = \"unfinished", "unfinished"),
            ("hunter22", "hunter22"),
            ("password=", "password="),
        ] {
            assert_eq!(&text[super::value(text)], value, "{text}");
        }
    }
}
