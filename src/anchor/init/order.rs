//! What process 1 is told to do with the machine, by signals: they come through when nothing else works.
//!
//! The same signals as busybox's init takes, so that its `reboot`, `poweroff` and `halt` work as well. A `kill 1` by mistake is the order from
//! which a machine in a cellar comes back.

use rustix::system::RebootCommand;

use crate::sys::signal::{SIGINT, SIGPWR, SIGUSR1, SIGUSR2};

/// How the machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Without power.
    Poweroff,
    /// From the beginning.
    Reboot,
    /// Stopped, with power.
    Halt,
}

impl Order {
    /// What a signal to process 1 means: Ctrl-Alt-Del is SIGINT, a power supply that fails is SIGPWR, anything that is not known is taken as
    /// SIGTERM is.
    pub fn of_signal(signal: i32) -> Order {
        match signal {
            SIGUSR1 => Order::Halt,
            SIGUSR2 | SIGPWR => Order::Poweroff,
            _ => Order::Reboot,
        }
    }

    /// The signal by which it is asked for.
    pub fn signal(self) -> i32 {
        match self {
            Order::Poweroff => SIGUSR2,
            Order::Reboot => SIGINT,
            Order::Halt => SIGUSR1,
        }
    }

    /// Its command.
    pub fn word(self) -> &'static str {
        match self {
            Order::Poweroff => "poweroff",
            Order::Reboot => "reboot",
            Order::Halt => "halt",
        }
    }

    /// For reboot(2).
    pub(super) fn command(self) -> RebootCommand {
        match self {
            Order::Poweroff => RebootCommand::PowerOff,
            Order::Reboot => RebootCommand::Restart,
            Order::Halt => RebootCommand::Halt,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_of_an_order_means_it() {
        for order in [Order::Poweroff, Order::Reboot, Order::Halt] {
            assert_eq!(Order::of_signal(order.signal()), order);
        }
        assert_eq!(Order::of_signal(crate::sys::signal::SIGTERM), Order::Reboot);
        assert_eq!(Order::of_signal(SIGPWR), Order::Poweroff);
    }
}
