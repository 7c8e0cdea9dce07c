//! The system call ABIs that a kernel serves, and how they show in `seccomp_data`.

use oci_spec::runtime::Arch;

/// `__X32_SYSCALL_BIT`: set in the number of every x32 call, which otherwise looks like an x86-64 one.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// An ABI with call numbers of its own. The discriminants are columns of the syscall table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64 = 0,
    X32 = 1,
    I386 = 2,
    Aarch64 = 3,
    Arm = 4,
}

impl Abi {
    /// The ABI that OCI's name stands for, or `None` when no kernel that this program runs on serves it.
    pub(super) fn from_oci(arch: Arch) -> Option<Abi> {
        match arch {
            Arch::ScmpArchX86_64 => Some(Abi::X86_64),
            Arch::ScmpArchX32 => Some(Abi::X32),
            Arch::ScmpArchX86 => Some(Abi::I386),
            Arch::ScmpArchAarch64 => Some(Abi::Aarch64),
            Arch::ScmpArchArm => Some(Abi::Arm),
            _ => None,
        }
    }

    /// `AUDIT_ARCH_*` (linux/audit.h) as in `seccomp_data.arch`. x32 reports x86-64's.
    pub(super) fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::I386 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Whether registers are 32 bits wide, so that only the low half of an argument and of a compared value counts.
    /// Not so for x32, whose callers have the full registers.
    pub(super) fn is_narrow(self) -> bool {
        matches!(self, Abi::I386 | Abi::Arm)
    }

    /// Whether a kernel whose own ABI is `native` can ever report this one.
    pub(super) fn is_served_by(self, native: Abi) -> bool {
        match native {
            Abi::Aarch64 => matches!(self, Abi::Aarch64 | Abi::Arm),
            Abi::X86_64 | Abi::X32 | Abi::I386 | Abi::Arm => matches!(self, Abi::X86_64 | Abi::X32 | Abi::I386),
        }
    }
}
