"""Variants: how each file of a bundle is made from the float32 graph.

converter.py    choice of the converter: ours or Optimum
onnx.py         ONNX Runtime graphs: optimisation levels and int8
openvino.py     OpenVINO models: float32 and int8
optimum.py      the converter that uses Optimum
recipes.py      all variants by name, and how each is built
smoothquant.py  SmoothQuant for ONNX
targets.py      instruction sets that int8 files are made for
torch_graph.py  the complete pipeline as one torch module, exported to ONNX
"""
