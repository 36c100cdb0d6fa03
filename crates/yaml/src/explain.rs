//! Explains text that is not valid YAML.
//!
//! - *In*: the text, and the parser's error.
//! - *Out*: a [`Problem`] that names what people usually get wrong: tabs, keys written twice,
//!   brackets that are not closed, indentation. Else the parser's own words.
//! - *Never*: a guess that the text at the place does not support.

use saphyr::ScanError;

use crate::problem::Problem;

/// The problem of a text that the parser rejects.
pub fn explain(text: &str, error: &ScanError) -> Problem {
    let (mut line, mut column) = (error.marker().line(), error.marker().col() + 1);
    let info = error.info();
    let lines: Vec<&str> = text.lines().collect();
    if let Some(at) = indented_with_tab(&lines, line) {
        (line, column) = at;
    }
    let why = tab(&lines, line, info)
        .or_else(|| duplicate(&lines, line, column, info))
        .or_else(|| quote(&lines, line, column, info))
        .or_else(|| unclosed(text, line, column, info))
        .or_else(|| indentation(&lines, line, info));
    Problem {
        line,
        column,
        path: String::new(),
        message: format!("not valid YAML: {}", why.as_deref().unwrap_or(info)),
    }
}

fn line_at<'t>(lines: &[&'t str], number: usize) -> Option<&'t str> {
    lines.get(number.checked_sub(1)?).copied()
}

/// Line and column of a tab in the indentation. The parser reports some at a line beside theirs.
fn indented_with_tab(lines: &[&str], line: usize) -> Option<(usize, usize)> {
    [line, line.saturating_sub(1), line + 1].into_iter().find_map(|number| {
        let mut indent = line_at(lines, number)?.chars().take_while(|c| c.is_whitespace());
        Some((number, indent.position(|c| c == '\t')? + 1))
    })
}

fn tab(lines: &[&str], line: usize, info: &str) -> Option<String> {
    match indented_with_tab(lines, line) {
        Some((at, _)) => Some(format!("line {at} is indented with a tab; use spaces")),
        None => info.contains(" tab").then(|| "a tab; use spaces".into()),
    }
}

fn duplicate(lines: &[&str], line: usize, column: usize, info: &str) -> Option<String> {
    if !info.contains("duplicated key") {
        return None;
    }
    let key_at = |number: usize| -> Option<&str> {
        let text = line_at(lines, number)?;
        let (at, _) = text.char_indices().nth(column - 1)?;
        let before = text.get(..at)?;
        if !before.chars().all(|c| c == ' ' || c == '-') {
            return None;
        }
        Some(text.get(at..)?.split_once(':')?.0.trim())
    };
    let Some(key) = key_at(line) else {
        let key = flow_key(lines, line, column).unwrap_or_else(|| "a key".into());
        return Some(format!("{key} is there twice"));
    };
    let indented_less = |number: &usize| {
        line_at(lines, *number).is_some_and(|l| {
            !l.trim().is_empty()
                && l.chars().take_while(|c| *c == ' ' || *c == '-').count() + 1 < column
        })
    };
    let first = (1..line)
        .rev()
        .take_while(|number| !indented_less(number))
        .find(|number| key_at(*number) == Some(key));
    Some(match first {
        Some(first) => format!("the key {key:?} is there twice, first in line {first}"),
        None => format!("the key {key:?} is there twice"),
    })
}

/// `the key "address"` of a flow map, such as `{address: x, address: y}`.
fn flow_key(lines: &[&str], line: usize, column: usize) -> Option<String> {
    let text = line_at(lines, line)?;
    let (at, _) = text.char_indices().nth(column.checked_sub(1)?)?;
    let key = text.get(at..)?.split_once(':')?.0.trim().trim_matches(['"', '\'']);
    let is_word = !key.is_empty() && !key.contains(['{', '}', '[', ']', ',']);
    is_word.then(|| format!("the key {key:?}"))
}

fn quote(lines: &[&str], line: usize, column: usize, info: &str) -> Option<String> {
    let mark = line_at(lines, line)?.chars().nth(column.checked_sub(1)?)?;
    (info.contains("quoted scalar") && matches!(mark, '"' | '\''))
        .then(|| format!("the {mark} of {line}:{column} is not closed"))
}

/// The innermost bracket that is open where the parser stopped.
fn unclosed(text: &str, line: usize, column: usize, info: &str) -> Option<String> {
    let of_brackets = ["flow", "eof", "bracket", "end of stream", "indentation", "node content"];
    if !of_brackets.iter().any(|word| info.contains(word)) {
        return None;
    }
    let mut open: Vec<(char, usize, usize)> = Vec::new();
    let mut quote: Option<(char, usize, usize)> = None;
    // Whether a token may begin here: brackets and quotes inside of plain text are text.
    let mut begins = true;
    let (mut at_line, mut at_column, mut comment, mut before) = (1, 0, false, '\n');
    let mut after_backslash = false;
    for c in text.chars() {
        at_column += 1;
        if quote.is_none() && (at_line, at_column) >= (line, column) {
            break;
        }
        match (quote, c) {
            (_, '\n') => {
                (at_line, at_column, comment) = (at_line + 1, 0, false);
                begins = true;
            }
            _ if comment => {}
            (Some(('"', ..)), '\\') => after_backslash = !after_backslash,
            (Some((mark, ..)), _) => {
                if c == mark && !after_backslash {
                    quote = None;
                }
                after_backslash = false;
            }
            (None, '#') if before.is_whitespace() => comment = true,
            (None, '"' | '\'') if begins => quote = Some((c, at_line, at_column)),
            (None, '{' | '[') if begins => open.push((c, at_line, at_column)),
            (None, '}' | ']') => {
                let opener = if c == '}' { '{' } else { '[' };
                // Another bracket is closed before this one.
                if open.last().is_some_and(|(innermost, ..)| *innermost != opener) {
                    break;
                }
                open.pop();
                begins = false;
            }
            (None, c) if c.is_whitespace() => {}
            (None, c) => begins = matches!(c, ':' | ',' | '-' | '?'),
        }
        before = c;
    }
    if let Some((mark, line, column)) = quote {
        return Some(format!("the {mark} of {line}:{column} is not closed"));
    }
    let (bracket, line, column) = open.pop()?;
    let end = if bracket == '{' { '}' } else { ']' };
    Some(format!(
        "expected \",\" or \"{end}\": the {bracket} of {line}:{column} is not closed here"
    ))
}

fn indentation(lines: &[&str], line: usize, info: &str) -> Option<String> {
    let of_indentation =
        ["block collection", "block mapping", "mapping values", "invalid indentation"];
    if !of_indentation.iter().any(|word| info.contains(word)) {
        return None;
    }
    let is_content = |l: &str| !l.trim().is_empty() && !l.trim_start().starts_with('#');
    let here = line_at(lines, line).filter(|l| is_content(l))?;
    let before = (1..line).rev().find(|number| line_at(lines, *number).is_some_and(is_content))?;
    let above = line_at(lines, before)?;
    let is_entry = here.trim_start().starts_with('-');
    // A key is compared with the key behind a dash, an entry with the dash.
    let indent = |l: &str| l.chars().take_while(|c| *c == ' ' || (*c == '-' && !is_entry)).count();
    let (own, other) = (indent(here), indent(above));
    (own != other && !above.trim_end().ends_with(':')).then(|| {
        format!(
            "line {line} is indented by {own}, line {before} by {other}; keys of one section are indented alike"
        )
    })
}
