"""Variants.

converter.py    Who makes the float32 graph
onnx.py         ONNX Runtime's graphs
openvino.py     OpenVINO's models, read from the float32 ONNX graph
optimum.py      The second converter
recipes.py      The ways to run a model, and how each file is made from the float32 graph
smoothquant.py  SmoothQuant for ONNX
targets.py      What an export is for
torch_graph.py  The whole pipeline, transformer to normalised vector or score, as one torch module, and that as
"""
