//! Weight tensors in the caller's memory.

use std::ffi::c_void;
use std::marker::PhantomData;

use crate::error::{invalid, Result};
use crate::native::make;
use crate::{sys, DType, Role};

/// One weight tensor; rows are outputs, as torch.nn.Linear has them. Made by [`f32`](Self::f32) and its sisters.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    role: Role,
    dtype: DType,
    shape: [i64; 2],
    rank: i32,
    row_stride: Option<i64>,
    memory: sys::cf_memory,
    data: *const c_void,
    /// Elements that `data` has; `None` in device memory, where the caller has promised that there are enough.
    len: Option<usize>,
    _borrowed: PhantomData<&'a [u8]>,
}

// SAFETY: as a shared slice of bytes; in device memory an address.
unsafe impl Send for Tensor<'_> {}
// SAFETY: as above.
unsafe impl Sync for Tensor<'_> {}

impl<'a> Tensor<'a> {
    /// Of F32. shape: one or two sizes, as [`Role`] says.
    pub fn f32(role: Role, shape: &[usize], data: &'a [f32]) -> Result<Self> {
        Self::new(role, DType::F32, shape, data.as_ptr().cast(), Some(data.len()))
    }

    /// Of F16, as the bits of each number.
    pub fn f16(role: Role, shape: &[usize], data: &'a [u16]) -> Result<Self> {
        Self::new(role, DType::F16, shape, data.as_ptr().cast(), Some(data.len()))
    }

    /// Of BF16, as the bits of each number.
    pub fn bf16(role: Role, shape: &[usize], data: &'a [u16]) -> Result<Self> {
        Self::new(role, DType::BF16, shape, data.as_ptr().cast(), Some(data.len()))
    }

    /// As it lies in a file: little-endian, of any alignment.
    pub fn bytes(role: Role, dtype: DType, shape: &[usize], data: &'a [u8]) -> Result<Self> {
        let size = dtype.size_bytes().ok_or_else(|| invalid!("{role:?} is of DType::Auto, expected F32, F16 or BF16"))?;
        Self::new(role, dtype, shape, data.as_ptr().cast(), Some(data.len() / size))
    }

    /// In memory of the context's device.
    ///
    /// # Safety
    ///
    /// Until the call that takes the tensor has returned, `data` is readable memory of the context's device (on the CPU backend: of the
    /// host) with as many elements as shape and row stride need.
    pub unsafe fn device(role: Role, dtype: DType, shape: &[usize], data: *const c_void) -> Result<Self> {
        let mut tensor = Self::new(role, dtype, shape, data, None)?;
        tensor.memory = sys::CF_MEMORY_DEVICE;
        Ok(tensor)
    }

    /// Rows lie this many elements apart, not one behind the other.
    pub fn row_stride(mut self, elements: usize) -> Result<Self> {
        self.row_stride = Some(i64::try_from(elements).map_err(|_| invalid!("{:?} has a row stride of {elements}", self.role))?);
        self.check()
    }

    fn new(role: Role, dtype: DType, sizes: &[usize], data: *const c_void, len: Option<usize>) -> Result<Self> {
        let mut shape = [0; 2];
        if !matches!(sizes.len(), 1 | 2) {
            return Err(invalid!("{role:?} has {} dimensions, expected 1 or 2", sizes.len()));
        }
        for (into, size) in shape.iter_mut().zip(sizes) {
            *into = i64::try_from(*size).map_err(|_| invalid!("{role:?} has shape {sizes:?}"))?;
        }
        let rank = if sizes.len() == 1 { 1 } else { 2 };
        Self { role, dtype, shape, rank, row_stride: None, memory: sys::CF_MEMORY_HOST, data, len, _borrowed: PhantomData }.check()
    }

    /// The library reads what shape and strides say, so that many elements have to be there.
    fn check(self) -> Result<Self> {
        let Some(len) = self.len else { return Ok(self) };
        let (rows, columns) = if self.rank == 1 { (1, self.shape[0]) } else { (self.shape[0], self.shape[1]) };
        let stride = self.row_stride.unwrap_or(columns);
        let needed = (rows - 1).max(0).checked_mul(stride).and_then(|n| n.checked_add(columns));
        match needed {
            Some(needed) if stride >= columns && needed <= i64::try_from(len).unwrap_or(i64::MAX) => Ok(self),
            _ => {
                let shape = &self.shape[..usize::from(self.rank == 2) + 1];
                Err(invalid!("{:?} has {len} elements, too few for shape {shape:?} with rows {stride} apart", self.role))
            }
        }
    }

    fn to_struct(self) -> Result<sys::cf_tensor> {
        let mut tensor = make::<sys::cf_tensor>()?;
        tensor.role = self.role.raw();
        tensor.dtype = self.dtype.raw();
        tensor.memory = self.memory;
        tensor.rank = self.rank;
        tensor.shape = self.shape;
        if let (Some(stride), 2) = (self.row_stride, self.rank) {
            tensor.strides = [stride, 1];
        }
        tensor.data = self.data;
        Ok(tensor)
    }

    pub(crate) fn to_structs(tensors: &[Self]) -> Result<Vec<sys::cf_tensor>> {
        tensors.iter().map(|tensor| tensor.to_struct()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_is_too_short_is_refused() {
        let data = [0.0f32; 12];
        assert!(Tensor::f32(Role::OWeight, &[3, 4], &data).is_ok());
        assert!(Tensor::f32(Role::OWeight, &[2, 4], &data).unwrap().row_stride(8).is_ok());
        for tensor in [
            Tensor::f32(Role::OWeight, &[4, 4], &data),
            Tensor::f32(Role::OWeight, &[3, 4], &data).and_then(|tensor| tensor.row_stride(5)),
            Tensor::f32(Role::OWeight, &[3, 4], &data).and_then(|tensor| tensor.row_stride(3)),
            Tensor::f32(Role::OWeight, &[usize::MAX >> 1, 4], &data),
            Tensor::f32(Role::OWeight, &[1, 3, 4], &data),
            Tensor::f32(Role::OWeight, &[], &data),
            Tensor::bytes(Role::OWeight, DType::F16, &[3, 4], &[0; 23]),
            Tensor::bytes(Role::OWeight, DType::Auto, &[3, 4], &[0; 24]),
        ] {
            assert!(tensor.unwrap_err().sentence().starts_with("OWeight "));
        }
    }
}
