//! Text to tokens, each with its place. Nothing is refused here: a character that starts no token becomes a [`Kind::Stray`], so that
//! the parser reports it in its place and goes on.

/// A piece of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'s> {
    /// What it is.
    pub kind: Kind,
    /// The characters, without the marks around a quoted name or a string.
    pub text: &'s str,
    /// Where it starts, in bytes.
    pub start: usize,
}

/// The kinds of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A letter or `_`, then letters, digits, `_` and dots.
    Word,
    /// A name between backticks; `\` escapes a character.
    Quoted,
    /// `%` and digits; the text is the digits.
    Label,
    /// A string between `"`, without escapes.
    Text,
    /// Anything that starts with a digit or with `-`: a number, or nearly.
    Number,
    /// One of `( ) [ ] { } , : = / < > + * & | ^ ?`.
    Mark,
    /// The end of a line that holds something.
    Newline,
    /// The end of the text.
    End,
    /// What starts no token, or a name or string without end.
    Stray,
}

/// All tokens; the last one is [`Kind::End`]. A comment goes from `#` to the end of its line.
pub fn lex(source: &str) -> Vec<Token<'_>> {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    let mut at = 0;
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let (kind, len) = match first {
            '\n' => {
                if tokens.last().is_some_and(|last| last.kind != Kind::Newline) {
                    tokens.push(Token {
                        kind: Kind::Newline,
                        text: "",
                        start: at,
                    });
                }
                at += 1;
                continue;
            }
            ' ' | '\t' | '\r' => {
                at += 1;
                continue;
            }
            '#' => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            'a'..='z' | 'A'..='Z' | '_' => (Kind::Word, word_len(rest)),
            '0'..='9' | '-' => (Kind::Number, number_len(rest)),
            '%' => (Kind::Label, 1 + run_len(&rest[1..], |c| c.is_ascii_digit())),
            '"' | '`' => quoted(rest, first),
            '(' | ')' | '[' | ']' | '{' | '}' | ',' | ':' | '=' | '/' | '<' | '>' | '+' | '*' | '&' | '|' | '^'
            | '?' => (Kind::Mark, 1),
            _ => (Kind::Stray, first.len_utf8()),
        };
        let text = match kind {
            Kind::Label => &rest[1..len],
            Kind::Text | Kind::Quoted => &rest[1..len - 1],
            _ => &rest[..len],
        };
        tokens.push(Token { kind, text, start: at });
        at += len;
    }
    tokens.push(Token {
        kind: Kind::End,
        text: "",
        start: source.len(),
    });
    tokens
}

/// Whether a name can stand without backticks, as far as its characters go.
pub fn is_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && word_len(name) == name.len()
}

fn word_len(rest: &str) -> usize {
    run_len(rest, |c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

fn run_len(rest: &str, accept: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !accept(c)).unwrap_or(rest.len())
}

/// `-1.5e-7`, `-inf`, `0x7fc00001`: a sign, then letters, digits and dots, and a sign again after a decimal exponent's `e`.
fn number_len(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let is_hex = rest.starts_with("0x");
    let mut len = 1;
    while let Some(&byte) = bytes.get(len) {
        let is_exponent_sign = matches!(byte, b'+' | b'-') && matches!(bytes[len - 1], b'e' | b'E') && !is_hex;
        if !(byte.is_ascii_alphanumeric() || byte == b'.' || is_exponent_sign) {
            break;
        }
        len += 1;
    }
    len
}

/// The length of a string or quoted name with its marks; one that does not end on its line is stray as a whole.
fn quoted(rest: &str, mark: char) -> (Kind, usize) {
    let mut escaped = false;
    for (place, c) in rest.char_indices().skip(1) {
        match c {
            '\n' => return (Kind::Stray, place),
            _ if escaped => escaped = false,
            '\\' if mark == '`' => escaped = true,
            _ if c == mark => {
                let kind = if mark == '"' { Kind::Text } else { Kind::Quoted };
                return (kind, place + 1);
            }
            _ => {}
        }
    }
    (Kind::Stray, rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_kinds_and_texts() {
        let found: Vec<(Kind, &str)> = lex("%12: f32[-1e-5] = `a\\`b` \"mk\" é # rest\n\n}\n")
            .iter()
            .map(|t| (t.kind, t.text))
            .collect();
        use Kind::*;
        let expected = [
            (Label, "12"),
            (Mark, ":"),
            (Word, "f32"),
            (Mark, "["),
            (Number, "-1e-5"),
            (Mark, "]"),
            (Mark, "="),
            (Quoted, "a\\`b"),
            (Text, "mk"),
            (Stray, "é"),
            (Newline, ""),
            (Mark, "}"),
            (Newline, ""),
            (End, ""),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_does_not_end_is_stray_up_to_the_line_end() {
        let kinds: Vec<Kind> = lex("\"ab\n`c").iter().map(|token| token.kind).collect();
        assert_eq!(kinds, [Kind::Stray, Kind::Newline, Kind::Stray, Kind::End]);
    }
}
