//! Finding and executing the program.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;

use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, stat};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::error::{StepError, call, errno_of};
use super::trampoline::Trampoline;
use crate::sys::image;

/// Finds `argv[0]`: as it is where it holds a slash, else in the directories of PATH, as Go's `exec.LookPath` does,
/// whose words the clients of runc match on.
pub(super) fn find(program: &str, path: &str) -> Result<CString, StepError> {
    let terminated = |text: String| CString::new(text).map_err(|_| StepError::ZeroByte { what: "process.args[0]" });
    if program.contains('/') {
        return match check(program) {
            Ok(()) => terminated(program.to_owned()),
            Err(errno @ Errno::ACCESS) => Err(StepError::NotExecutable { program: program.to_owned(), errno }),
            Err(errno) => Err(StepError::NoProgram { program: program.to_owned(), errno }),
        };
    }
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{program}");
        match check(&candidate) {
            Ok(()) => return terminated(candidate),
            Err(errno) => denied |= errno == Errno::ACCESS,
        }
    }
    match denied {
        true => Err(StepError::NotExecutable { program: program.to_owned(), errno: Errno::ACCESS }),
        false => Err(StepError::NotInPath { program: program.to_owned() }),
    }
}

/// A file that may be executed.
fn check(path: &str) -> Result<(), Errno> {
    let stat = stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ACCESS);
    }
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    // Root may "execute" what nobody has the bit for; execve(2) does not.
    if stat.st_mode & 0o111 == 0 { Err(Errno::ACCESS) } else { Ok(()) }
}

/// The environment with the number that the process has where it runs: only it knows, and execve(2) keeps it.
pub(super) fn with_listen_pid(env: &[String]) -> Vec<String> {
    let others = env.iter().filter(|entry| !entry.starts_with("LISTEN_PID=")).cloned();
    others.chain([format!("LISTEN_PID={}", std::process::id())]).collect()
}

/// The environment with the home directory, where it has none.
pub(super) fn with_home(env: &[String], home: Option<&str>) -> Vec<String> {
    let home = home.filter(|_| !env.iter().any(|entry| entry.starts_with("HOME=")));
    env.iter().cloned().chain(home.map(|home| format!("HOME={home}"))).collect()
}

/// Executes it, by way of a trampoline, which takes over the report, if one is given. Comes back only with an error.
pub(super) fn execute(
    found: &CStr,
    args: &[String],
    env: &[String],
    home: Option<&str>,
    by_way_of: Option<(&Trampoline, &OwnedFd)>,
) -> Result<(), StepError> {
    let strings = |all: &[String], what| -> Result<Vec<CString>, StepError> {
        all.iter().map(|text| CString::new(text.as_str()).map_err(|_| StepError::ZeroByte { what })).collect()
    };
    let mut args = strings(args, "process.args")?;
    let mut env = strings(env, "process.env")?;
    if let Some(home) = home.filter(|_| !env.iter().any(|entry| entry.to_bytes().starts_with(b"HOME="))) {
        env.push(CString::new(format!("HOME={home}")).map_err(|_| StepError::ZeroByte { what: "HOME" })?);
    }
    let executed = match by_way_of {
        None => nix::unistd::execve(found, &args, &env).map_err(std::io::Error::from),
        Some((trampoline, report)) => {
            fcntl_setfd(report, FdFlags::empty()).map_err(call("fcntl"))?;
            args.insert(0, found.to_owned());
            image::execute(trampoline.fd(), &args, &env)
        }
    };
    match executed {
        Ok(never) => match never {},
        Err(error) => Err(StepError::Exec { program: found.to_string_lossy().into_owned(), errno: errno_of(&error) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_cannot_run_are_told_in_runcs_words() {
        let words = |program: &str| find(program, "/usr/bin:/bin").expect_err("not to be found").to_string();
        assert_eq!(words("no-such-program"), "exec: \"no-such-program\": executable file not found in $PATH");
        assert_eq!(words("/no/such"), "exec: \"/no/such\": stat /no/such: no such file or directory");
        assert_eq!(words("/etc/passwd"), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(words("/etc"), "exec: \"/etc\": permission denied");
    }
}
