/* Functions whose answer matters: each is taken by the library that needs it, SPECIAL_name set. */
#ifdef SPECIAL_cublasGetMathMode
int cublasGetMathMode(void *blas, int *mode) { (void)blas; *mode = 0; return 0; }
#endif
#ifdef SPECIAL_cublasSetMathMode
int cublasSetMathMode(void *blas, int mode) {
  (void)blas;
  tell(mode == 3 ? "math-mode-tf32" : "math-mode-other");
  return 0;
}
#endif
#ifdef SPECIAL_cublasGetStatusName
const char *cublasGetStatusName(int code) { (void)code; return "CUBLAS_STATUS"; }
#endif
#ifdef SPECIAL_cublasGetStatusString
const char *cublasGetStatusString(int code) { (void)code; return "status of the stand-in"; }
#endif
#ifdef SPECIAL_cublasLtMatmulAlgoGetHeuristic
int cublasLtMatmulAlgoGetHeuristic(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int wanted, void *results, int *count) {
  (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)wanted;
  memset(results, 0, 96);
  *count = 1;
  return 0;
}
#endif
#ifdef SPECIAL_cudnnBackendCreateDescriptor
int cudnnBackendCreateDescriptor(int kind, void **made) { (void)kind; *made = &token; return 0; }
#endif
#ifdef SPECIAL_cudnnBackendGetAttribute
/* One element of whatever is asked, but nothing of the lists of notes and of what an engine lacks. */
int cudnnBackendGetAttribute(void *of, int name, int type, int64_t room, int64_t *count, void *values) {
  enum { INT64 = 3, POINTER = 6, KNOB = 9, NUMERICAL_NOTE = 11, BEHAVIOR_NOTE = 19, INT32 = 23, STYLE = 26 };
  int notes = type == NUMERICAL_NOTE || type == BEHAVIOR_NOTE || type == STYLE;
  (void)of, (void)name;
  if (count) *count = notes ? 0 : 1;
  if (values && room > 0 && (type == INT64 || type == POINTER)) memset(values, 0, 8);
  /* As a number it is the shared memory of a plan: too much, and no plan is left. */
  int filling = type == INT32 && getenv("STAND_IN_NO_PLAN") ? 0x7f : 0;
  if (values && room > 0 && (type == KNOB || type == INT32)) memset(values, filling, 4);
  return 0;
}
#endif
#ifdef SPECIAL_cudnnGetVersion
size_t cudnnGetVersion(void) { return 91200; }
#endif
#ifdef SPECIAL_cudnnGetErrorString
const char *cudnnGetErrorString(int code) { (void)code; return "status of the stand-in"; }
#endif
#ifdef SPECIAL_cudnnGetLastErrorString
void cudnnGetLastErrorString(char *text, size_t room) { if (room) text[0] = 0; }
#endif
