//! Devices of this machine.

use std::fmt;
use std::str::FromStr;

use crate::error::{invalid, Error, Result};
use crate::native::{self, queried};
use crate::{sys, CpuIsa};

/// A device: "cpu" or "cuda:0".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The CPU.
    Cpu,
    /// A CUDA device, by its number.
    Cuda(usize),
}

impl Device {
    /// The first usable CUDA device, or else the CPU.
    pub fn best() -> Result<Self> {
        let usable = devices()?.into_iter().find(|info| info.usable && info.device != Self::Cpu);
        Ok(usable.map_or(Self::Cpu, |info| info.device))
    }

    pub(crate) fn kind(self) -> sys::cf_device_kind {
        match self {
            Self::Cpu => sys::CF_DEVICE_CPU,
            Self::Cuda(_) => sys::CF_DEVICE_CUDA,
        }
    }

    pub(crate) fn ordinal(self) -> Result<i32> {
        match self {
            Self::Cpu => Ok(0),
            Self::Cuda(ordinal) => native::number("the device", ordinal),
        }
    }

    pub(crate) fn of(kind: sys::cf_device_kind, ordinal: i32) -> Result<Self> {
        match (kind, usize::try_from(ordinal)) {
            (sys::CF_DEVICE_CPU, _) => Ok(Self::Cpu),
            (sys::CF_DEVICE_CUDA, Ok(ordinal)) => Ok(Self::Cuda(ordinal)),
            _ => Err(Error::Library(format!("libclusterfusion gave a device of kind {kind}, number {ordinal}"))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(ordinal))) => Ok(Self::Cuda(ordinal)),
            _ => Err(invalid!("the device is {text:?}, expected \"cpu\", \"cuda\" or \"cuda:0\"")),
        }
    }
}

/// A device, usable or not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// Which one.
    pub device: Device,
    /// Whether it can be used, or not, for `reason`.
    pub usable: bool,
    /// Empty if usable.
    pub reason: String,
    /// What it calls itself.
    pub name: String,
    /// CUDA: major * 10 + minor; CPU: 0.
    pub compute_capability: i32,
    /// CUDA: SMs; CPU: hardware threads that this process may use.
    pub multiprocessors: i32,
    /// CUDA: CTAs in the largest portable thread-block cluster, 1 without clusters; CPU: 1.
    pub max_cluster_size: i32,
    /// CPU: what [`CpuIsa::Auto`] chooses.
    pub cpu_isa: CpuIsa,
    /// Total; CPU: physical memory.
    pub memory_bytes: u64,
    /// CUDA: the most that a CTA may use; CPU: 0.
    pub shared_memory_bytes: u64,
}

/// All devices: the CPU, then those of CUDA, of which there are none without a driver.
pub fn devices() -> Result<Vec<DeviceInfo>> {
    native::library()?;
    let mut all = Vec::new();
    for kind in [sys::CF_DEVICE_CPU, sys::CF_DEVICE_CUDA] {
        let mut count = 0;
        // SAFETY: the count can be written to.
        native::call(|| unsafe { sys::cf_device_count(kind, &mut count) })?;
        for ordinal in 0..count {
            // SAFETY: the struct can be written to.
            let info = queried::<sys::cf_device_info>(|info| unsafe { sys::cf_device_query(kind, ordinal, info) })?;
            all.push(DeviceInfo {
                device: Device::of(info.kind, info.ordinal)?,
                usable: info.usable != 0,
                reason: native::text(&info.reason),
                name: native::text(&info.name),
                compute_capability: info.compute_capability,
                multiprocessors: info.multiprocessors,
                max_cluster_size: info.max_cluster_size,
                cpu_isa: CpuIsa::of(info.cpu_isa)?,
                memory_bytes: info.memory_bytes,
                shared_memory_bytes: info.shared_memory_bytes,
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(3)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(text.parse::<Device>().unwrap_err().sentence().contains(&format!("{text:?}")));
        }
    }
}
