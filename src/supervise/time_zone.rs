//! Time zones of the host: their rules, from files of tzfile(5), and how far the local one is from UTC.
//!
//! The local zone is that of `TZ`, as tzset(3) reads it, else `/etc/localtime`; without either it is UTC. It is read once. The C library is not
//! asked: static, it brings a hundred kilobytes along that nothing else needs.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::tz::TimeZone;

const ZONES: &str = "/usr/share/zoneinfo";
const LOCAL: &str = "/etc/localtime";
/// Larger than any file there.
const ZONE_BYTES_MAX: u64 = 1 << 20;

/// Seconds east of UTC at a time in seconds since 1970; 0 where the year is beyond what is known.
pub fn offset_s(seconds: i64) -> i64 {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    let zone = ZONE.get_or_init(|| local(std::env::var_os("TZ").as_deref()));
    Timestamp::from_second(seconds).map_or(0, |at| zone.to_offset(at).seconds().into())
}

/// What cannot be read is UTC, as for the C library.
fn local(tz: Option<&OsStr>) -> TimeZone {
    let Some(tz) = tz else { return read(None).unwrap_or(TimeZone::UTC) };
    let name = Path::new(OsStr::from_bytes(tz.as_bytes().strip_prefix(b":").unwrap_or(tz.as_bytes())));
    if name.as_os_str().is_empty() {
        return TimeZone::UTC;
    }
    // A path that is absolute takes the place of the directory.
    let of_file = read_file(&Path::new(ZONES).join(name)).ok().and_then(|bytes| TimeZone::tzif("local", &bytes).ok());
    let of_rule = || TimeZone::posix(name.to_str()?).ok();
    of_file.or_else(of_rule).unwrap_or(TimeZone::UTC)
}

/// The rules of a zone; `None` is the host's own. UTC needs no file.
///
/// Errs with a line for people: where it was looked for, and why there is none.
pub fn read(name: Option<&str>) -> Result<TimeZone, String> {
    let path = match name {
        Some("UTC") => return Ok(TimeZone::UTC),
        Some(name) => Path::new(ZONES).join(name),
        None => PathBuf::from(LOCAL),
    };
    match (read_file(&path), name) {
        (Ok(bytes), _) => {
            TimeZone::tzif(name.unwrap_or("local"), &bytes).map_err(|error| format!("{}: {error}", path.display()))
        }
        // As for the C library.
        (Err(error), None) if error.kind() == std::io::ErrorKind::NotFound => Ok(TimeZone::UTC),
        (Err(error), Some(_)) if error.kind() == std::io::ErrorKind::NotFound => {
            let why = if Path::new(ZONES).is_dir() {
                "there is no such time zone"
            } else {
                "the host has no time zones: install tzdata"
            };
            Err(format!("{}: {why}", path.display()))
        }
        (Err(error), _) => Err(format!("{}: {error}", path.display())),
    }
}

fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(ZONE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_zone_is_a_day_away() {
        for seconds in [0, 1_767_614_400, i64::MAX] {
            assert!(offset_s(seconds).abs() < 86_400);
        }
    }

    #[test]
    fn zones_are_read_and_what_is_none_is_told() {
        assert_eq!(read(Some("UTC")), Ok(TimeZone::UTC));
        assert!(read(None).is_ok());
        let why = read(Some("Europe/Atlantis")).unwrap_err();
        assert!(why.starts_with("/usr/share/zoneinfo/Europe/Atlantis: "), "{why}");
    }

    #[test]
    fn tz_names_a_file_or_is_a_rule() {
        let summer = Timestamp::from_second(1_783_000_000).unwrap();
        let hours = |tz: &str| local(Some(OsStr::new(tz))).to_offset(summer).seconds() / 3600;
        assert_eq!(
            [hours(""), hours("no such zone"), hours("EST5"), hours(":CET-1CEST,M3.5.0,M10.5.0/3")],
            [0, 0, -5, 2]
        );
        if Path::new(ZONES).join("Asia/Tokyo").exists() {
            assert_eq!([hours("Asia/Tokyo"), hours(":/usr/share/zoneinfo/Asia/Tokyo")], [9, 9]);
        }
    }
}
