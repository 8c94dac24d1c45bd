//! Text of other processes, made fit for a line of the report.

/// Longest reason in bytes.
const REASON_MAX: usize = 1000;

/// Makes text fit for a line of the report: one line, no control bytes, nothing that would turn the
/// text around.
pub(super) fn one_line(text: &str) -> String {
    let text = text.trim();
    let mut line: String = text
        .chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            ' '..='~' => c,
            c if !c.is_ascii() && c.is_alphanumeric() => c,
            _ => '?',
        })
        .collect();
    line.truncate(line.floor_char_boundary(REASON_MAX));
    line
}
