//! Weights from memory, and block calls on the caller's keys and values.

mod common;

use clusterfusion::*;
use common::{cpu, demo, model};

/// The demo checkpoint's file, read by hand.
struct Checkpoint {
    index: serde_json::Value,
    data: Vec<u8>,
}

impl Checkpoint {
    fn read() -> Self {
        let bytes = std::fs::read(demo().join("model.safetensors")).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        Self { index: serde_json::from_slice(&bytes[8..8 + length]).unwrap(), data: bytes[8 + length..].to_vec() }
    }

    fn tensor(&self, role: Role, name: &str) -> Tensor<'_> {
        let entry = &self.index[name];
        let numbers = |key: &str| entry[key].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect::<Vec<_>>();
        let range = numbers("data_offsets");
        Tensor::bytes(role, DType::F16, &numbers("shape"), &self.data[range[0]..range[1]]).unwrap()
    }

    fn layer(&self, layer: usize) -> Vec<Tensor<'_>> {
        let roles = [
            (Role::AttentionNormWeight, "input_layernorm.weight"),
            (Role::AttentionNormBias, "input_layernorm.bias"),
            (Role::MlpNormWeight, "post_attention_layernorm.weight"),
            (Role::MlpNormBias, "post_attention_layernorm.bias"),
            (Role::QkvWeight, "attention.query_key_value.weight"),
            (Role::QkvBias, "attention.query_key_value.bias"),
            (Role::OWeight, "attention.dense.weight"),
            (Role::OBias, "attention.dense.bias"),
            (Role::UpWeight, "mlp.dense_h_to_4h.weight"),
            (Role::UpBias, "mlp.dense_h_to_4h.bias"),
            (Role::DownWeight, "mlp.dense_4h_to_h.weight"),
            (Role::DownBias, "mlp.dense_4h_to_h.bias"),
        ];
        roles.iter().map(|(role, name)| self.tensor(*role, &format!("gpt_neox.layers.{layer}.{name}"))).collect()
    }

    fn globals(&self) -> Vec<Tensor<'_>> {
        vec![
            self.tensor(Role::Embedding, "gpt_neox.embed_in.weight"),
            self.tensor(Role::FinalNormWeight, "gpt_neox.final_layer_norm.weight"),
            self.tensor(Role::FinalNormBias, "gpt_neox.final_layer_norm.bias"),
            self.tensor(Role::Head, "embed_out.weight"),
        ]
    }
}

#[test]
fn a_model_from_memory_is_the_same_model() {
    let checkpoint = Checkpoint::read();
    let config = ModelConfig { bos_token: Some(10), ..model().config().clone() };
    let made = Model::create(&cpu(), &config, DType::Auto).unwrap();
    assert!(matches!(made.session(), Err(Error::NotLoaded(_))));
    let error = made.load_layer(0, &checkpoint.layer(0)[1..]).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    for layer in 0..config.n_layers {
        made.load_layer(layer, &checkpoint.layer(layer)).unwrap();
    }
    made.load_globals(&checkpoint.globals()).unwrap();
    assert_eq!(made.info().unwrap(), model().info().unwrap());
    assert_eq!(common::answer(&mut made.session().unwrap()), "505\n");
    let error = made.load_layer(4, &checkpoint.layer(0)).unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument(sentence) if sentence.contains('4')), "{error:?}");
}

#[test]
fn sizes_that_do_not_fit_are_refused_by_name() {
    let config = ModelConfig { vocab_size: 1 << 40, ..model().config().clone() };
    let error = Model::create(&cpu(), &config, DType::Auto).unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument(sentence) if sentence.starts_with("vocab_size is 1099511627776")), "{error:?}");
    let config = ModelConfig { eos_tokens: vec![1; 9], ..model().config().clone() };
    let error = Model::create(&cpu(), &config, DType::Auto).unwrap_err();
    assert_eq!(error.sentence(), "eos_tokens has 9 tokens, expected at most 8");
}

#[test]
fn a_block_gives_the_bits_of_a_session_s_step() {
    let config = model().config();
    let (h, i, kv) = (config.hidden_size, config.intermediate_size, config.n_kv_heads * config.head_dim);
    let capacity = 8;
    let mut session = common::session();
    let (mut k, mut v) = (vec![0.0f32; capacity * kv], vec![0.0f32; capacity * kv]);
    let (mut position, mut status) = (0i32, 0i32);
    let (mut attention_output, mut mlp_activation) = (vec![0.0f32; h], vec![0.0f32; i]);
    for (place, token) in common::tokens("412").into_iter().enumerate() {
        let (mut hidden, mut expected) = (vec![0.0; h], vec![0.0; h]);
        let options = StepOptions::new().tap(Tap::read(TapPoint::BlockInput, 0, &mut hidden)).tap(Tap::read(TapPoint::BlockOutput, 0, &mut expected));
        session.decode_step_with(token, options).unwrap();
        let (mut whole, mut parts) = (vec![0.0f32; h], vec![0.0f32; h]);
        let call = BlockCall::new(1, hidden.as_ptr().cast(), &mut position, &mut status).unwrap();
        let call = call.cache(DType::F32, k.as_mut_ptr().cast(), v.as_mut_ptr().cast(), capacity, kv as i64, config.head_dim as i64).unwrap();
        let call = call.attention_output(attention_output.as_mut_ptr().cast()).mlp_activation(mlp_activation.as_mut_ptr().cast());
        // SAFETY: everything has the size that the call states, and lives until it has returned.
        unsafe {
            model().block_forward(0, &call.output(whole.as_mut_ptr().cast())).unwrap();
            model().block_attention(0, &call).unwrap();
            model().block_mlp_down(0, &call.output(parts.as_mut_ptr().cast()).advance()).unwrap();
        }
        assert_eq!((status, position), (0, place as i32 + 1));
        assert!(whole == expected && parts == expected);
    }
    assert_eq!(model().block_workspace_bytes(1, 8), Ok(0));
    assert!(matches!(model().block_workspace_bytes(65, 8), Err(Error::InvalidArgument(_))));
}
