"""The next default model, in training: Whisper base's encoder and Qwen2.5-Coder-0.5B-Instruct.

==========  ========================================================================================
parts       the language model out of packages
spelling    text as it is spoken, words cut into pieces of at most three letters
rooms       damage to clean speech
speech      free voices, spoken texts, stored features
actors      people's speech out of games and a telephone, with text by Whisper's own decoder
encoder     Whisper base in Qwen2-Audio's class, with layers added on top
loop        what stages share: texts with letters, batches, the loop
letters     stage 1: letters by CTC
data        the stage data: all of it by one command
alignment   when each letter and piece is spoken
writer      stage 2: letters and pieces together: each audio token is the piece that lasts there
checkpoint  what training changed, by the names of Qwen2-Audio
train       the commands, one a stage
==========  ========================================================================================
"""
