"""The embedded default model: from downloaded parts to one checkpoint folder.

=====================  ===========================================================================
build                  the command ``scripts/build_small_model.py``
errors                 the one exception a user of the script may see
parts                  download from Python packages, cache, sha256
hub                    download from the model hub, checked against what the hub recorded
sources                the two sources of the same parts, and the choice between them
ctranslate2_whisper    CTranslate2's ``model.bin`` -> Whisper encoder weights under Whisper's names
language_model         GGUF -> Llama weights, configuration and tokenizer
text                   audio tokens, chat template, tokenizer files
assemble               configuration, projector, the finished folder, and the checks on it
card                   the model card and the licence notices inside the folder
training               how ``trained`` came about: ``scripts/train_small_model.py``
=====================  ===========================================================================
"""
