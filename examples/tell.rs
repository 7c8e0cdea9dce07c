//! Tells the supervisor something by sd_notify(3): each argument is one message. `--stay` stays afterwards, `--flood` begins again without
//! end, `--env` prints the variables that there are for it.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, messages): (Vec<&String>, Vec<&String>) = arguments.iter().partition(|text| text.starts_with("--"));
    let has = |option: &str| options.iter().any(|given| *given == option);
    // Not println!, which panics when nobody listens.
    let say = |text: &str| drop(writeln!(std::io::stdout(), "{text}"));
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        if let Some(value) = std::env::var_os(name).filter(|_| has("--env")) {
            say(&format!("{name}={}", value.display()));
        }
    }
    let path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_else(|| fail("NOTIFY_SOCKET is not set"));
    let socket = UnixDatagram::unbound().unwrap_or_else(|error| fail(&error.to_string()));
    loop {
        for message in &messages {
            if let Err(error) = socket.send_to(message.as_bytes(), &path) {
                fail(&format!("{}: {error}", path.display()));
            }
        }
        if !has("--flood") {
            break;
        }
    }
    while has("--stay") {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn fail(text: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "{text}");
    std::process::exit(1)
}
