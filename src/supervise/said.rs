//! What the supervisor says on standard error: an event a line, whatever the event quotes. Texts of containers are among them, and a
//! terminal may be reading.

use std::io::{self, Write};

use crate::unit::diagnostic::one_line;

/// A writer for events, each of which comes whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said;

impl Write for Said {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(line(event).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn line(event: &[u8]) -> String {
    let text = String::from_utf8_lossy(event);
    let mut line = one_line(text.strip_suffix('\n').unwrap_or(&text));
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_controls_nothing() {
        assert_eq!(line(b" INFO web: started\n"), " INFO web: started\n");
        assert_eq!(
            line("web: x\r\n WARN forged\u{1b}[31m\u{202e}\n".as_bytes()),
            "web: x\\r\\n WARN forged\\u{1b}[31m\\u{202e}\n"
        );
    }
}
