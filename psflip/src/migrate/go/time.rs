//! Translates time formats of upstream's library (timefmt-go) for psflip's, which differs in the formats that
//! depend on a locale.

/// The format that produces the same text, or the part that has no equivalent.
pub(super) fn format(format: &str) -> Result<String, String> {
    let mut out = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut flags = String::new();
        let mut directive = chars.next();
        while let Some(flag @ ('-' | '_' | '^' | '#' | '0'..='9')) = directive {
            flags.push(flag);
            directive = chars.next();
        }
        let Some(directive) = directive else { return Err(format!("`%{flags}` at the end says nothing")) };
        if flags.len() > 1 || flags.starts_with(|c: char| ('1'..='9').contains(&c)) {
            return Err(format!("`%{flags}{directive}` has a width, or more than one flag"));
        }
        let spelled = match directive {
            'Y' | 'y' | 'm' | 'd' | 'e' | 'j' | 'H' | 'I' | 'k' | 'l' | 'M' | 'S' | 'B' | 'b' | 'h' | 'A'
            | 'a' | 'p' | 'Z' | 'U' | 'W' | 'V' | 'G' | 'g' | 'C' => {
                out.push_str(&format!("%{flags}{directive}"));
                continue;
            }
            'w' | 'u' | 's' | 'z' | '%' | 't' | 'n' if flags.is_empty() => {
                out.push_str(&format!("%{directive}"));
                continue;
            }
            'f' => "%6f",
            'D' | 'x' => "%m/%d/%y",
            'F' => "%Y-%m-%d",
            'v' => "%e-%b-%Y",
            'R' => "%H:%M",
            'T' | 'X' => "%H:%M:%S",
            'r' => "%I:%M:%S %p",
            'c' => "%a %b %e %H:%M:%S %Y",
            _ => return Err(format!("`%{flags}{directive}` has no counterpart")),
        };
        if !flags.is_empty() {
            return Err(format!("`%{flags}{directive}` has no counterpart"));
        }
        out.push_str(spelled);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locale_dependent_formats_are_spelled_out() {
        assert_eq!(
            format("%c|%x|%X|%r|%f").as_deref(),
            Ok("%a %b %e %H:%M:%S %Y|%m/%d/%y|%H:%M:%S|%I:%M:%S %p|%6f")
        );
        assert_eq!(format("a%%b%-d%_H").as_deref(), Ok("a%%b%-d%_H"));
    }

    #[test]
    fn unknown_formats_are_refused() {
        for unknown in ["%Q", "%E", "%", "%-", "%3Y", "%-c", "%_^a"] {
            assert!(format(unknown).is_err(), "{unknown}");
        }
    }
}
