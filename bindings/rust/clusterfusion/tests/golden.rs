//! The demo checkpoint gives the tokens that C and Python give, which are those of transformers (tests/golden/demo_tokens.json).

mod common;

use clusterfusion::{GenerateOptions, Token};
use common::{model, repository, tokens};

#[test]
fn the_demo_checkpoint_decodes_to_the_same_tokens_as_in_c_and_python() {
    let text = std::fs::read_to_string(repository().join("tests/golden/demo_tokens.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 6);
    for case in cases {
        let prompt = case["prompt"].as_str().unwrap();
        let expected: Vec<Token> = case["tokens"].as_array().unwrap().iter().map(|token| token.as_i64().unwrap() as Token).collect();
        assert_eq!(expected.len(), 256);
        for steps_per_call in [1, 32] {
            let options = GenerateOptions::new().max_tokens(expected.len()).stop_tokens([]).steps_per_call(steps_per_call);
            let made: Vec<Token> = model().generate_with(tokens(prompt), &options).unwrap().map(Result::unwrap).collect();
            assert_eq!(made, expected, "{prompt:?}, {steps_per_call} steps in a call");
        }
    }
}
