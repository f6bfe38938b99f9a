"""Audio: decoding of files, voice activity, augmentation."""

from whisper_ser.audio.decoding import read_audio

__all__ = ["read_audio"]
