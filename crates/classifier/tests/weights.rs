//! The weights in the binary are those of this version's features.

use classifier::{Model, Task};

#[test]
fn the_weights_can_be_read_and_say_what_training_measured() {
    let model = Model::from_bytes(classifier::WEIGHTS)
        .expect("train again: the features or the word tables changed");
    assert_eq!(model.to_bytes(), classifier::WEIGHTS);
    assert!(
        model.measured(Task::Injection).auc > 0.95 && model.measured(Task::Toxicity).auc > 0.85
    );
}
