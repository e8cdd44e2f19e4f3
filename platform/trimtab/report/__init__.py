"""What a person looks at: figures and tables of finished diagnoses.

Receives plain data (curves by layer, matrices); computes no measure and reads no run.
"""
