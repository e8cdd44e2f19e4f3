"""The studies that can be swept, one module each: `STUDY` is what `trimtab.sweep.study` asks for."""
