//! A look into a block while a step goes through it, or a hand in it.

use crate::error::{invalid, Result};
use crate::native::{self, make};
use crate::{sys, ModelConfig, TapPoint};

/// One place of a model that a step reads from or writes to. Its T rows are all rows of the step: of a prefill all its positions, of a
/// batch one for each session, of several steps in a call one, the last's (a write acts on each of them).
#[derive(Debug)]
pub struct Tap<'a> {
    point: TapPoint,
    layer: usize,
    data: Data<'a>,
}

#[derive(Debug)]
enum Data<'a> {
    Read(&'a mut [f32]),
    Write(&'a [f32]),
    Device(*mut f32, sys::cf_tap_action),
}

impl<'a> Tap<'a> {
    /// Copies what passes there to `into`, as [`TapPoint`] shapes it. What a failed step has read is undefined.
    pub fn read(point: TapPoint, layer: usize, into: &'a mut [f32]) -> Self {
        Self { point, layer, data: Data::Read(into) }
    }

    /// Overwrites what passes there. Keys and values are made of what was written.
    pub fn write(point: TapPoint, layer: usize, values: &'a [f32]) -> Self {
        Self { point, layer, data: Data::Write(values) }
    }

    /// As [`read`](Self::read), to memory of the context's device.
    ///
    /// # Safety
    ///
    /// Until the call that has this tap has returned, `into` is memory of the context's device for all rows that nothing else uses.
    pub unsafe fn read_on_device(point: TapPoint, layer: usize, into: *mut f32) -> Self {
        Self { point, layer, data: Data::Device(into, sys::CF_TAP_READ) }
    }

    /// As [`write`](Self::write), from memory of the context's device.
    ///
    /// # Safety
    ///
    /// Until the call that has this tap has returned, `values` is readable memory of the context's device for all rows.
    pub unsafe fn write_on_device(point: TapPoint, layer: usize, values: *const f32) -> Self {
        Self { point, layer, data: Data::Device(values.cast_mut(), sys::CF_TAP_WRITE) }
    }

    /// For a step of n_rows.
    pub(crate) fn as_struct(&mut self, n_rows: usize, config: &ModelConfig) -> Result<sys::cf_tap> {
        let wanted = numbers(self.point, n_rows, config)?;
        let (memory, action, data) = match &mut self.data {
            Data::Read(into) => (sys::CF_MEMORY_HOST, sys::CF_TAP_READ, checked(self.point, into, wanted)?.as_mut_ptr()),
            // Only read, whatever the type of the field says.
            Data::Write(values) => {
                (sys::CF_MEMORY_HOST, sys::CF_TAP_WRITE, check(self.point, values.len(), wanted).map(|()| values.as_ptr().cast_mut())?)
            }
            Data::Device(address, action) => (sys::CF_MEMORY_DEVICE, *action, *address),
        };
        let mut tap = make::<sys::cf_tap>()?;
        tap.point = self.point.raw();
        tap.action = action;
        tap.layer = native::number("layer", self.layer)?;
        tap.memory = memory;
        tap.data = data;
        Ok(tap)
    }
}

fn numbers(point: TapPoint, n_rows: usize, config: &ModelConfig) -> Result<usize> {
    let row = match point {
        TapPoint::BlockInput | TapPoint::BlockOutput => Some(config.hidden_size),
        TapPoint::AttentionHeads => config.n_heads.checked_mul(config.head_dim),
        TapPoint::MlpActivation => Some(config.intermediate_size),
    };
    row.and_then(|row| row.checked_mul(n_rows)).ok_or_else(|| invalid!("a tap at {point:?} of {n_rows} rows"))
}

fn checked(point: TapPoint, data: &mut [f32], wanted: usize) -> Result<&mut [f32]> {
    check(point, data.len(), wanted).map(|()| data)
}

fn check(point: TapPoint, len: usize, wanted: usize) -> Result<()> {
    if len == wanted {
        return Ok(());
    }
    Err(invalid!("a tap at {point:?} has {len} numbers, expected {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    #[test]
    fn sizes_follow_from_the_model() {
        let config = ModelConfig { hidden_size: 8, n_heads: 3, head_dim: 2, intermediate_size: 5, ..ModelConfig::new(Family::Llama) };
        for (point, wanted) in
            [(TapPoint::BlockInput, 32), (TapPoint::BlockOutput, 32), (TapPoint::AttentionHeads, 24), (TapPoint::MlpActivation, 20)]
        {
            assert_eq!(numbers(point, 4, &config), Ok(wanted));
        }
        assert!(numbers(TapPoint::BlockInput, usize::MAX, &config).is_err());
        assert_eq!(check(TapPoint::BlockInput, 31, 32).unwrap_err().sentence(), "a tap at BlockInput has 31 numbers, expected 32");
    }
}
